"""When an OllamaDeployment should be looked at again although nothing happens to it. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers.conditions import Done, Stuck, Verdict
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.warmth import cold
from ollama_fleet.planning.plan import Plan

FOLLOW_SECONDS: Final = 1.0
"""Pulls and loads are followed by asking the pods, which send no events."""
_WAITING_SECONDS: Final = 5.0
"""What time alone changes: the silence of reports after the operator's start ends, a new server's patience runs out."""
_STUCK_SECONDS: Final = 30.0
"""What somebody else must mend outside the objects we watch (a registry, a quota)."""


def next_look(
    plan: Plan, verdict: Verdict, groups: Sequence[ObservedGroup], in_force: Mapping[str, GroupConfig]
) -> float | None:
    """Seconds, or None where events tell all that can change; ``in_force`` says what each group's pods should serve."""
    if isinstance(verdict, Done):
        return _WAITING_SECONDS if any(_silent(one) for group in groups for one in group.pods) else None
    if any(_followed(one, in_force.get(group.name)) for group in groups for one in group.pods):
        return FOLLOW_SECONDS
    if any(group.pulls for group in groups):
        return FOLLOW_SECONDS
    if any(map(_waits, groups)) or any(not problem.terminal for problem in plan.problems):
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


def _silent(observed: ObservedPod) -> bool:
    """Whether a pod that runs has not said what it holds: after the operator's start nothing else wakes the key."""
    pod = observed.pod
    return pod.sidecar_running and not pod.deleting and observed.state is None


def _waits(group: ObservedGroup) -> bool:
    """Whether a pod waits for a Job, whose puller may answer at any time, or for others beside which it finds no room.

    After a while one of those makes room for it.
    """
    if any(one.pod.scheduling_gated for one in group.pods):
        return True
    unplaced = (one.trouble for one in group.pods if one.trouble)
    return any(one.pod.node for one in group.pods) and any(one.reason is Reason.UNSCHEDULABLE for one in unplaced)
