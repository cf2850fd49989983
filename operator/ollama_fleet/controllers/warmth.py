"""Which models of a pod are not where the plan wants them. Pure."""

from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState

_NO_MEMORY: Final = ("out of memory", "failed to allocate", "unable to allocate")
"""How both generations of Ollama say that a load found too little memory."""


def pinned(config: GroupConfig) -> frozenset[str]:
    """Names of the models that must be in memory for good; OnDemand ones come and go."""
    return frozenset(model.name for model in config.models if model.residency == "Pinned")


def cold(state: SidecarState, config: GroupConfig) -> tuple[ModelState, ...]:
    """The Pinned models that are not Warm in a pod, failed ones first."""
    wanted = pinned(config)
    found = [model for model in state.models if model.name in wanted and model.phase is not ModelPhase.WARM]
    return tuple(sorted(found, key=lambda model: model.phase is not ModelPhase.FAILED))


def starved(model: ModelState) -> bool:
    """Whether its last load failed for lack of memory."""
    return model.phase is ModelPhase.FAILED and any(words in model.message.lower() for words in _NO_MEMORY)
