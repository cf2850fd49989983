"""Is a pod's work really in GPU memory? From its node's report, without I/O.

The sidecar has already proved that the models answer. Ollama answers from the CPU too, silently: here the driver's own
figures are held against the plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.nodevramreport import GPUReport, ResidentModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import SidecarState
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.reports import Report
from ollama_fleet.controllers.warmth import pinned

LEAST_SHARE: Final = 0.8
"""Of the planned GPU bytes: less than that by the driver's count, and the work is elsewhere."""
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the gate of a pod must not be open."""

    reason: Reason
    message: str
    hard: bool
    """Whether the pod is useless: then it leaves service even if it is the last of its group."""


def objection(
    pod: PodView, *, report: Report, state: SidecarState, config: GroupConfig, planned: Mapping[str, int]
) -> Objection | None:
    """The first thing in a fresh report that speaks against the pod; None when all of it is where it should be."""
    name = f"{pod.namespace}/{pod.name}"
    mine = [gpu for gpu in report.status.gpus if name in gpu.pods]
    sick = next((gpu for gpu in mine if not gpu.healthy), None)
    if sick is not None:
        return Objection(Reason.GPU_UNHEALTHY, f"GPU {sick.uuid}: {sick.reason}", hard=True)
    resident = {model.name: model for model in report.status.models if model.pod == name}
    wanted = pinned(config)
    for told in state.models:
        if told.name not in wanted:
            continue
        found = resident.get(told.name)
        if found is None:
            message = f"{told.name} is not in memory by the node's report"
            return Objection(Reason.NOT_RESIDENT, message, hard=True)
        if told.digest is not None and found.digest != told.digest:
            return Objection(Reason.DIGEST_MISMATCH, f"{told.name} was loaded from {found.digest}", hard=True)
        offloaded = _offloaded(found)
        if offloaded is not None:
            return offloaded
    return _measured_too_little(name, mine, sum(planned.get(model, 0) for model in wanted))


def _offloaded(model: ResidentModel) -> Objection | None:
    if model.size_vram >= model.size:
        return None
    share = 100 * (model.size - model.size_vram) / model.size
    message = f"{share:.0f} % of {model.name} is in system memory: give it a larger GPU or a smaller context"
    return Objection(Reason.CPU_OFFLOAD, message, hard=False)


def _measured_too_little(name: str, gpus: list[GPUReport], planned: int) -> Objection | None:
    """The driver counts by process; without the node's process numbers it counts nothing, which proves nothing."""
    used = [process.used_mebibytes for gpu in gpus for process in gpu.processes if process.pod == name]
    if not planned or not used or sum(used) * _MIB >= LEAST_SHARE * planned:
        return None
    message = f"the driver counts {sum(used)} MiB for the pod, {planned // _MIB} MiB are planned"
    return Objection(Reason.CPU_OFFLOAD, message, hard=False)
