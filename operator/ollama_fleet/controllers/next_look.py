"""When an OllamaDeployment should be looked at again although nothing happens to it. Pure."""

from collections.abc import Sequence
from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.controllers.conditions import Done, Stuck, Verdict
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.warmth import cold
from ollama_fleet.planning.plan import Plan

FOLLOW_SECONDS: Final = 1.0
"""Pulls and loads are followed by asking the pods, which send no events."""
_WAITING_SECONDS: Final = 5.0
"""What passes by itself, like the silence of reports after the operator's start, wakes no key of those without pods."""
_STUCK_SECONDS: Final = 30.0
"""What somebody else must mend outside the objects we watch (a registry, a quota)."""


def next_look(plan: Plan, verdict: Verdict, groups: Sequence[ObservedGroup]) -> float | None:
    """Seconds, or None where events tell all that can change."""
    if isinstance(verdict, Done):
        return None
    configs = {group.name: group.config for group in plan.groups}
    if any(_followed(observed, configs.get(group.name)) for group in groups for observed in group.pods):
        return FOLLOW_SECONDS
    if any(not problem.terminal for problem in plan.problems):
        return _WAITING_SECONDS
    return _STUCK_SECONDS if isinstance(verdict, Stuck) else None


def _followed(observed: ObservedPod, config: GroupConfig | None) -> bool:
    """Whether a pod is on a way of which only its own servers tell; of all else the API server sends events."""
    pod, state = observed.pod, observed.state
    if not pod.sidecar_running:
        return pod.puller_running
    if config is None or state is None or pod.gate != "True":
        return True
    return not state.ready or state.config_hash != config.hash() or bool(cold(state, config))
