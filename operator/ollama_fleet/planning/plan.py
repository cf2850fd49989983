"""The plan: groups of identical servers, what each runs with, and what keeps the wish from being planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_fleet.api.deploymentstatus import EffectiveValue
from ollama_fleet.api.group import GroupConfig, GroupRecord
from ollama_fleet.api.ollamadeployment import HardwareSpec, PlacementSpec, ReadinessPolicy, StorageSpec
from ollama_fleet.planning.environment import Setting
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.hostmemory import HostMemory
from ollama_fleet.planning.problems import Problem


@dataclass(frozen=True, slots=True)
class Group:
    """One Deployment-to-be."""

    name: str
    """``g0``, ``g1`` ...: stable over the life of the OllamaDeployment."""
    config: GroupConfig
    record: GroupRecord
    """What the next plan has to know of this one."""
    environment: tuple[Setting, ...]
    """Variables of the Ollama container, sorted by name."""
    memory: HostMemory
    """Of the Ollama container, where the hardware is GPUs."""
    options: Options
    """With which its models are sized."""
    image: str
    image_choice: str
    """The image as it was chosen, without a digest that was looked up for it."""
    fleet_image: str
    replicas: int
    hardware: HardwareSpec
    storage: StorageSpec
    placement: PlacementSpec
    readiness_policy: ReadinessPolicy
    fleet_namespaces: tuple[str, ...]
    """Where this product's own pods are, sorted."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """Upper bound of GPU memory by model, in bytes; empty where nothing was sized."""
    surge: bool = True
    """Whether a rollout may start a new server before it stops an old one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What an OllamaDeployment becomes. With problems there are no groups; with left-out models there are."""

    version: str = ""
    """Ollama version, e.g. ``0.32.3``."""
    image: str = ""
    groups: tuple[Group, ...] = ()
    problems: tuple[Problem, ...] = ()
    left_out: tuple[Problem, ...] = ()
    """Models for which there is no room, or which another ModelSet serves otherwise; the others are served."""
    effective: tuple[EffectiveValue, ...] = ()
