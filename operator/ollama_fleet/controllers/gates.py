"""The readiness gate of a pod: may it take traffic? Pure.

The pod's sidecar proves that the models that must be in memory are, with the planned digest, and that each has
generated a token. With policy ``VRAM`` the report of the node's agent must agree that they are in GPU memory.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, SidecarState
from ollama_fleet.controllers.conditions import timestamp
from ollama_fleet.controllers.demotion import Judgment, Ruling
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.vram import Objection
from ollama_fleet.controllers.warmth import cold, pinned

DEMOTING: Final = frozenset(
    {
        Reason.GPU_UNHEALTHY,
        Reason.NO_GPU_FOUND,
        Reason.DIGEST_MISMATCH,
        Reason.NOT_RESIDENT,
        Reason.CPU_OFFLOAD,
        Reason.CONTEXT_TOO_SMALL,
    }
)
"""For which a node's report closes a gate."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate's condition should say."""

    status: Literal["True", "False"]
    reason: Reason
    message: str


def by_sidecar(pod: PodView, *, state: SidecarState | None, config: GroupConfig) -> Gate:
    """The gate as far as the pod itself can tell.

    ``state`` is the sidecar's snapshot, fetched after the kubelet reported this container (None: not reachable);
    ``config`` is what the plan wants the pod to serve.
    """
    progress = _progress(state, config)
    if not pod.ollama_ready:
        return _closed(pod, progress)
    if state is None:
        # Silence is no proof in either direction.
        return Gate(_as_it_is(pod), Reason.SIDECAR_UNREACHABLE, "The sidecar does not answer the operator")
    if not state.ready:
        return Gate("False", Reason.LOADING, progress)
    if state.config_hash != config.hash() and pod.gate != "True":
        return Gate("False", Reason.CONFIG_PENDING, "The sidecar has not applied the newest configuration yet")
    return Gate("True", Reason.RESIDENT, progress)


def without_report(pod: PodView, why: str) -> Gate:
    """Policy ``VRAM`` while no report speaks: what was open stays open, what was closed stays closed."""
    message = f"The agent of {pod.node} {why}: nothing is known of its GPUs"
    return Gate(_as_it_is(pod), Reason.REPORT_STALE, message)


def unheard(pod: PodView) -> Gate:
    """The same while the report speaks of the node's GPUs and not of the pod's models."""
    message = f"The sidecar does not answer the agent of {pod.node}: nothing is known of what is in GPU memory"
    return Gate(_as_it_is(pod), Reason.SIDECAR_UNREACHABLE, message)


def by_report(proved: Gate, judgment: Judgment, objection: Objection | None) -> Gate | None:
    """The gate after a fresh report was ruled on; ``proved`` is the sidecar's. None: it stays as it is for now."""
    if judgment.ruling is Ruling.WAIT:
        return None
    if objection is None:
        if proved.reason is not Reason.RESIDENT:
            return proved
        return Gate("True", Reason.RESIDENT, f"{proved.message}, in GPU memory by the node's report")
    if judgment.ruling is Ruling.SPARE:
        return Gate("True", objection.reason, f"{objection.message}; {judgment.why}")
    return Gate("False", objection.reason, objection.message)


def _closed(pod: PodView, progress: str) -> Gate:
    if pod.gate == "True" or pod.gate_reason == Reason.NOT_RESIDENT:
        return Gate("False", Reason.NOT_RESIDENT, progress or "The sidecar withdrew its readiness")
    return Gate("False", Reason.LOADING, progress or "Ollama is starting")


def _as_it_is(pod: PodView) -> Literal["True", "False"]:
    return "True" if pod.gate == "True" else "False"


def changed(pod: PodView, gate: Gate) -> bool:
    """Whether the pod's condition has to be written."""
    return (pod.gate, pod.gate_reason, pod.gate_message) != (gate.status, gate.reason, gate.message)


def news(pod: PodView, gate: Gate) -> Literal["", "opens", "closes", "stays open"]:
    """What people should hear of: that it opens or closes, or that the pod is spared, and first for what."""
    if gate.status == "True" and gate.reason in DEMOTING:
        return "stays open" if pod.gate_reason != gate.reason else ""
    if pod.gate == gate.status or (not pod.gate and gate.status == "False"):
        return ""
    return "opens" if gate.status == "True" else "closes"


def condition_patch(gate: Gate, *, pod: PodView, now: datetime) -> dict[str, Any]:
    """A strategic merge patch for the ``status`` subresource of the pod."""
    condition = {
        "type": names.READINESS_GATE,
        "status": gate.status,
        "reason": gate.reason,
        "message": gate.message,
    }
    if pod.gate != gate.status:
        condition["lastTransitionTime"] = timestamp(now)
    return {"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}}


def _progress(state: SidecarState | None, config: GroupConfig) -> str:
    """How many of the models that must be in memory are; OnDemand ones come and go and would make the message churn."""
    if state is None:
        return ""
    waiting, wanted = cold(state, config), pinned(config)
    # A model that the sidecar has not heard of yet is neither warm nor waiting.
    warm = sum(model.name in wanted for model in state.models) - len(waiting)
    summary = f"{warm}/{len(wanted)} models in memory"
    if waiting and waiting[0].phase is ModelPhase.FAILED:
        return f"{summary}; {waiting[0].name} failed: {waiting[0].message}"
    if waiting:
        return f"{summary}; waiting for {', '.join(model.name for model in waiting[:3])}"
    return summary
