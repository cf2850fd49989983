"""What a plan is made from: the wish, the models as their registries answered, and what runs now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ollama_fleet.api.group import GroupConfig, GroupRecord
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.planning.inventory import Inventory, Silent
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.versions import Version
from ollama_fleet.sizing.calibration import Calibration


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """Which images pods run: one place for the whole operator."""

    fleet_image: str
    """This product's own image, for puller and sidecar."""
    ollama_repository: str = "ollama/ollama"
    """Repository of the Ollama images; the version is the tag."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """Image digests by version. A version without one runs by its tag, which the status says."""

    def image(self, version: Version) -> str:
        """The image of a version, by its digest where that is known."""
        digest = self.digests.get(str(version))
        return f"{self.ollama_repository}@{digest}" if digest else self.tagged(version)

    def tagged(self, version: Version) -> str:
        """The image of a version by its tag."""
        return f"{self.ollama_repository}:{version}"


@dataclass(frozen=True, slots=True)
class ModelSetView:
    """A ModelSet as the planner reads it."""

    name: str
    spec: ModelSetSpec
    status: ModelSetStatus
    generation: int = 0


@dataclass(frozen=True, slots=True)
class PreviousGroup:
    """A group as the last plan made it, read back from the cluster."""

    name: str
    config: GroupConfig
    crowded: bool = False
    """A rollout found no room for a new server beside the old ones."""
    record: GroupRecord = field(default_factory=GroupRecord)
    starved: frozenset[str] = frozenset()
    """Models that found too little memory on every server that tried to load them."""


@dataclass(frozen=True, slots=True)
class ClaimView:
    """The PersistentVolumeClaim of a cache."""

    access_modes: frozenset[str]
    """As the claim asks for them, e.g. ``ReadWriteOnce``."""
    uid: str = ""


def _nothing_known() -> None:
    return None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """One OllamaDeployment and everything that decides its plan."""

    namespace: str
    name: str
    spec: OllamaDeploymentSpec
    model_sets: Mapping[str, ModelSetView | Problem | None]
    """By name; None where the ModelSet does not exist, a problem where it cannot be read."""
    policy: ImagePolicy
    fleet_namespaces: tuple[str, ...] = ("ollama-fleet",)
    """Where this product's own pods are: only those may administer servers."""
    previous: tuple[PreviousGroup, ...] = ()
    survey: Callable[[], Inventory | Silent | None] = _nothing_known
    """The GPUs that a server could get; None where nothing says how large they are. Asked only when something has to be
    planned anew: to look at a thousand nodes takes longer than a plan."""
    measured: Calibration = field(default_factory=Calibration)
    """What loads really took."""
    claim: ClaimView | None = None
    """With cache type ``Claim``: the claim, None where it does not exist."""
