"""The readiness gate of a pod: may it take traffic? Pure.

The pod's sidecar proves that the models that must be in memory are, with the planned digest, and that each has
generated a token. With policy ``VRAM`` the report of the node's agent must agree that they are in GPU memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase, SidecarState
from ollama_fleet.controllers import vram
from ollama_fleet.controllers.conditions import timestamp
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.reports import Report
from ollama_fleet.controllers.warmth import cold, pinned


@dataclass(frozen=True, slots=True)
class Gate:
    """What the gate's condition should say."""

    status: Literal["True", "False"]
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """What policy ``VRAM`` asks for."""

    report: Report
    planned: Mapping[str, int]
    """GPU bytes by model."""
    last_ready: bool
    """No other pod of the group takes traffic."""


def decide(pod: PodView, *, state: SidecarState | None, config: GroupConfig, evidence: Evidence | None = None) -> Gate:
    """The gate of one pod; ``evidence`` where the policy asks for it and an agent runs on the node.

    ``state`` is the sidecar's snapshot, fetched after the kubelet reported this container (None: not reachable);
    ``config`` is what the plan wants the pod to serve.
    """
    progress = _progress(state, config)
    if not pod.ollama_ready:
        return _closed(pod, progress)
    if state is None:
        # Silence is no proof in either direction: an open gate stays open, a closed one stays closed.
        return Gate(
            "True" if pod.gate == "True" else "False",
            Reason.SIDECAR_UNREACHABLE,
            "The sidecar does not answer the operator",
        )
    if not state.ready:
        return Gate("False", Reason.LOADING, progress)
    if state.config_hash != config.hash() and pod.gate != "True":
        return Gate("False", Reason.CONFIG_PENDING, "The sidecar has not applied the newest configuration yet")
    if evidence is not None:
        return _measured(pod, state, config, evidence, progress)
    return Gate("True", Reason.RESIDENT, progress)


def _measured(pod: PodView, state: SidecarState, config: GroupConfig, evidence: Evidence, progress: str) -> Gate:
    if not evidence.report.fresh:
        # It proves nothing: what was open stays open, what was closed stays closed.
        held: Literal["True", "False"] = "True" if pod.gate == "True" else "False"
        return Gate(held, Reason.REPORT_STALE, "The node's agent does not report: nothing is known of its GPUs")
    found = vram.objection(pod, report=evidence.report, state=state, config=config, planned=evidence.planned)
    if found is None:
        return Gate("True", Reason.RESIDENT, f"{progress}, in GPU memory by the driver's count")
    if not found.hard and pod.gate == "True" and evidence.last_ready:
        return Gate("True", found.reason, f"{found.message}; it is the last ready server and keeps serving")
    return Gate("False", found.reason, found.message)


def _closed(pod: PodView, progress: str) -> Gate:
    if pod.gate == "True" or pod.gate_reason == Reason.NOT_RESIDENT:
        return Gate("False", Reason.NOT_RESIDENT, progress or "The sidecar withdrew its readiness")
    return Gate("False", Reason.LOADING, progress or "Ollama is starting")


def changed(pod: PodView, gate: Gate) -> bool:
    """Whether the pod's condition has to be written."""
    return (pod.gate, pod.gate_reason, pod.gate_message) != (gate.status, gate.reason, gate.message)


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
