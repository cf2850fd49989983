"""The group configuration: what the operator tells the puller and the sidecar of a pod.

One group is one Deployment of identical Ollama servers. The operator renders the configuration into a ConfigMap;
a change reaches running sidecars without a restart, and the sidecar reports the hash of what it applied.

Sidecars of running pods may be older than the operator that writes: they leave out what they do not know.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field, PrivateAttr

from ollama_fleet.api.base import Bytes, Digest, Observed

Residency = Literal["Pinned", "OnDemand"]

WAITING_PER_SLOT: Final = 4
"""Requests that the sidecar lets wait for each slot of a model."""


class Modelfile(Observed):
    """Parts of a Modelfile that become layers of a derived manifest."""

    parameters: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    system: str | None = None
    template: str | None = None
    adapter: str | None = None
    """Registry reference with a digest: ``host/namespace/name:tag@sha256:...``."""


class GroupModel(Observed):
    """One model that a server of the group must hold, with everything resolved."""

    name: str
    """The served name: what clients put into ``model``."""
    registry: str
    """Host (and port) of the registry, without a scheme."""
    repository: str
    """Repository in the registry, e.g. ``library/llama3.1``."""
    manifest_digest: Digest
    """The registry's manifest, resolved by the operator; the puller takes no other."""
    weights: Digest | None = None
    """The file with the weights, which several manifests may share; absent where it is not known."""
    tag: str | None = None
    """The tag that gave the digest. registry.ollama.ai serves no manifests by digest (ollama/ollama#5298):
    the puller then asks for the tag and refuses another digest."""
    insecure: bool = False
    """Plain HTTP instead of HTTPS."""
    pull_secret: str | None = None
    ca_secret: str | None = None
    size: Bytes = 0
    """Bytes of all layers, for progress; 0 when unknown."""
    context_length: int | None = Field(default=None, ge=1)
    """Tokens per slot; becomes ``num_ctx`` of the derived manifest."""
    parallel: int = Field(default=1, ge=1)
    """Slots: concurrent requests that the sidecar lets through for this model."""
    residency: Residency = "Pinned"
    priority: int = 0
    keep_alive: str | None = None
    """Go duration or seconds, for OnDemand models; Pinned models stay for good."""
    modelfile: Modelfile = Field(default_factory=Modelfile)


class GroupConfig(Observed):
    """Everything a pod of the group needs besides its environment."""

    version: Literal[1] = 1
    namespace: str
    deployment: str
    """Name of the OllamaDeployment."""
    group: str
    ollama_version: str
    """Version that the plan was made for, e.g. ``0.32.3``."""
    models: tuple[GroupModel, ...] = ()
    num_parallel: int = Field(default=0, ge=0)
    """Slots that the server was planned with."""
    drain_seconds: int = Field(default=300, ge=0)
    load_timeout_seconds: int = Field(default=600, ge=1)
    """How long one model may take from the load request to its first token."""

    _received: str = PrivateAttr(default="")
    """Hash of the text, where this version left something out of it."""

    @classmethod
    def from_wire(cls, content: bytes) -> "GroupConfig":
        """What an operator of any version wrote. Raises ValueError."""
        document = json.loads(content)
        found = cls.model_validate(document)
        if _hash(document) != found.hash():
            found._received = _hash(document)  # noqa: SLF001 - its own class
        return found

    def hash(self) -> str:
        """A short content hash; the sidecar reports the hash of the configuration it has applied.

        Of a configuration that was received it is that of the text, with what this version left out of it.
        """
        return self._received or _hash(self.to_wire())

    def content(self, *, derived: bool = False) -> str:
        """A short hash of the files that a cache must hold for the group.

        With ``derived`` also of what makes the layers that no registry has: servers that only read cannot add them.
        """
        wanted = sorted(
            (
                *(model.registry, model.repository, model.manifest_digest, model.modelfile.adapter or ""),
                *((_derived(model),) if derived else ()),
            )
            for model in self.models
        )
        return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]


def _derived(model: GroupModel) -> str:
    return json.dumps([model.context_length, model.modelfile.to_wire()], sort_keys=True)


def _hash(document: Mapping[str, Any]) -> str:
    wire = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(wire.encode()).hexdigest()[:16]


class Started(Observed):
    """A variable of the Ollama container, as the servers of a group were started with it."""

    name: str
    value: str
    source: Literal["spec", "computed", "default"]
    reason: str = ""


class GroupRecord(Observed):
    """What the planner remembers of a group, beside its configuration; only the operator reads it.

    While nothing of the wish speaks against it, servers keep running as they were started: neither nodes that come and
    go nor an operator that would compute other values restart them.
    """

    choices: str = ""
    """Hash of everything chosen that the environment follows from."""
    sized_for: str = ""
    """Hash of everything chosen that decides which GPUs there are and what they hold; empty where it is not known."""
    environment: tuple[Started, ...] = ()
    memory_request: int = 0
    """Bytes of host memory; 0 where the spec or nobody says."""
    memory_limit: int = 0
    memory_reason: str = ""
    wishes: dict[str, int] = Field(default_factory=dict)
    """Slots that each model asked for; 0 asks for as many as fit."""
    waiting: dict[str, str] = Field(default_factory=dict)
    """Hashes of what was asked for models of the deployment that found no place."""
    kv_type: str = "f16"
    spread: bool = False
    gpus: int = 0
    """Per server."""
    usable: int = 0
    """Bytes of each GPU that the plan counted with; 0 where nothing was sized."""
    usable_reason: str = ""
    product: str = ""
    """Of those GPUs."""
