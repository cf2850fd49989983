"""Which models of a pod are not where the plan wants them. Pure."""

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState


def pinned(config: GroupConfig) -> frozenset[str]:
    """Names of the models that must be in memory for good; OnDemand ones come and go."""
    return frozenset(model.name for model in config.models if model.residency == "Pinned")


def cold(state: SidecarState, config: GroupConfig) -> tuple[ModelState, ...]:
    """The Pinned models that are not Warm in a pod, failed ones first."""
    wanted = pinned(config)
    found = [model for model in state.models if model.name in wanted and model.phase is not ModelPhase.WARM]
    return tuple(sorted(found, key=lambda model: model.phase is not ModelPhase.FAILED))
