"""The status of a node's report from what the agent saw. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from ollama_fleet import __version__
from ollama_fleet.agent.gpu import DeviceState, GpuView
from ollama_fleet.api.common import Condition, ConditionStatus
from ollama_fleet.api.nodevramreport import GPUProcess, GPUReport, NodeVRAMReportStatus, ReportSummary, ResidentModel
from ollama_fleet.api.reasons import Reason

T = TypeVar("T")

READY: Final = "Ready"
ATTRIBUTED: Final = "Attributed"
"""Whether GPUs and processes are known by pod."""

MAX_GPUS: Final = 128
MAX_PODS: Final = 64
"""Per GPU."""
MAX_PROCESSES: Final = 64
"""Per GPU, those of each pod with the most memory."""
MAX_ENTRIES: Final = 1024
"""Pods, and processes, of all GPUs: the API server takes objects of 1.5 MiB."""
MAX_MODELS: Final = 512
MAX_MODELS_OF_A_POD: Final = 64

_MIB: Final = 2**20
_GIB: Final = 2**30
_NAMED: Final = 3
"""Unhealthy GPUs that the message names."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at the node."""

    view: GpuView
    memory: int
    """Bytes of the node's memory."""
    holders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Pods (``namespace/name``) by the UUID of the device that the kubelet gave them."""
    process_pods: Mapping[int, str] = field(default_factory=dict)
    """Pods by process number."""
    process_weights: Mapping[int, str] = field(default_factory=dict)
    """Digests of the weights that processes serve, by process number."""
    models: Mapping[str, tuple[ResidentModel, ...]] = field(default_factory=dict)
    """In memory, by pod, of those whose sidecars answered lately."""
    blind: Reason | None = None
    """Why pods are not known: HOST_PID_OFF or KUBELET_UNREACHABLE."""
    blind_message: str = ""


def status(
    seen: Observation, *, previous: Sequence[Condition], generation: int, now: str, sequence: int = 0
) -> NodeVRAMReportStatus:
    """``now`` is RFC 3339; ``generation`` is that of the spec that the agent acts on, -1 if it knows none."""
    devices = seen.view.devices[:MAX_GPUS]
    entries = MAX_ENTRIES // max(1, len(devices))
    gpus = [_gpu(state, seen, pods=min(MAX_PODS, entries), processes=min(MAX_PROCESSES, entries)) for state in devices]
    told = _shared({pod: mine[:MAX_MODELS_OF_A_POD] for pod, mine in seen.models.items()}, room=MAX_MODELS)
    models = [model for mine in told.values() for model in mine]
    return NodeVRAMReportStatus(
        observed_generation=generation,
        sequence=sequence,
        agent_version=__version__,
        driver_version=seen.view.driver,
        summary=_summary(gpus, len(models)),
        memory_mebibytes=_mebibytes(seen.memory),
        gpus=gpus,
        models=sorted(models, key=lambda model: (model.pod, model.name, model.digest)),
        heard=sorted(pod for pod, mine in told.items() if len(mine) == len(seen.models[pod])),
        conditions=[
            _condition(kind, verdict, previous=previous, generation=generation, now=now)
            for kind, verdict in ((READY, _ready(seen)), (ATTRIBUTED, _attributed(seen)))
        ],
    )


def _gpu(state: DeviceState, seen: Observation, *, pods: int, processes: int) -> GPUReport:
    """With at most so many of each."""
    device, memory = state.device, state.device.memory
    known: dict[str, list[tuple[int, int]]] = {}
    for used, pid in sorted(((one.used, one.pid) for one in device.processes if one.used is not None), reverse=True):
        known.setdefault(seen.process_pods.get(pid, ""), []).append((used, pid))
    told = sorted((one for mine in _shared(known, room=processes).values() for one in mine), reverse=True)
    shown = [
        GPUProcess(
            pid=pid,
            used_mebibytes=_mebibytes(used),
            pod=seen.process_pods.get(pid, ""),
            weights=seen.process_weights.get(pid),
        )
        for used, pid in told
    ]
    return GPUReport(
        uuid=device.uuid,
        index=device.index,
        product=device.product,
        healthy=not state.reason,
        reason=state.reason,
        total_mebibytes=_mebibytes(memory.total),
        reserved_mebibytes=_mebibytes(memory.reserved),
        used_mebibytes=_mebibytes(memory.used),
        free_mebibytes=_mebibytes(memory.free),
        memory_source=memory.source,
        pods=list(seen.holders.get(device.uuid, ()))[:pods],
        processes=shown,
    )


def _shared(entries: Mapping[str, Sequence[T]], *, room: int) -> dict[str, Sequence[T]]:
    """What of each pod has its place: few entries are all told, and no pod takes the place of another's."""
    found: dict[str, Sequence[T]] = {}
    for pod in sorted(entries, key=lambda pod: (len(entries[pod]), pod)):
        found[pod] = entries[pod][: room // (len(entries) - len(found))]
        room -= len(found[pod])
    return found


def _summary(gpus: Sequence[GPUReport], models: int) -> ReportSummary:
    healthy = sum(gpu.healthy for gpu in gpus)
    used, total = (sum(getattr(gpu, f"{what}_mebibytes") for gpu in gpus) for what in ("used", "total"))
    memory = f"{used * _MIB / _GIB:.1f}/{total * _MIB / _GIB:.1f} GiB" if gpus else ""
    return ReportSummary(gpus=f"{healthy}/{len(gpus)}", used=memory, models=models)


def _ready(seen: Observation) -> tuple[ConditionStatus, Reason, str]:
    view = seen.view
    if view.problem:
        return "False", Reason.DRIVER_FAILED, f"{view.problem}; it is tried again every few seconds"
    if not view.devices:
        return "True", Reason.NO_GPU_FOUND, f"the node has no GPU and {seen.memory / _GIB:.1f} GiB of memory"
    sick = [state for state in view.devices if state.reason]
    if sick:
        named = ", ".join(f"{one.device.uuid} ({one.reason})" for one in sick[:_NAMED])
        more = f" and {len(sick) - _NAMED} more" if len(sick) > _NAMED else ""
        message = (
            f"{len(sick)} of {len(view.devices)} GPUs cannot take work: {named}{more}; reset them or drain the node"
        )
        return "False", Reason.GPU_UNHEALTHY, message
    return "True", Reason.OBSERVED, f"{len(view.devices)} GPUs are healthy"


def _attributed(seen: Observation) -> tuple[ConditionStatus, Reason, str]:
    if seen.blind is not None:
        return "False", seen.blind, seen.blind_message
    return "True", Reason.PODS_KNOWN, "GPUs and their processes are known by pod"


def _condition(
    kind: str,
    verdict: tuple[ConditionStatus, Reason, str],
    *,
    previous: Sequence[Condition],
    generation: int,
    now: str,
) -> Condition:
    holds, reason, message = verdict
    before = next((one for one in previous if one.type == kind), None)
    since = before.last_transition_time if before is not None and before.status == holds else now
    return Condition(
        type=kind,
        status=holds,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=max(0, generation),
    )


def _mebibytes(size: int) -> int:
    return round(size / _MIB)
