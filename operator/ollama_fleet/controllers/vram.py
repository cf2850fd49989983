"""Is a pod's work really in GPU memory? From its node's report, without I/O.

The sidecar has already proved that the models answer. Ollama answers from the CPU too, silently: here the driver's own
figures are held against the plan.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ollama_fleet.api.group import GroupConfig
from ollama_fleet.api.nodevramreport import GPUReport, NodeVRAMReportStatus, ResidentModel
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import SidecarState
from ollama_fleet.controllers.observation import ObservedPod
from ollama_fleet.controllers.pods import PodView
from ollama_fleet.controllers.reports import Report
from ollama_fleet.controllers.warmth import pinned
from ollama_fleet.planning.expectations import Expectation

LEAST_SHARE: Final = 0.8
"""Of the expected GPU bytes: less than that by the driver's count, and the work is elsewhere."""
_MIB: Final = 2**20
_GIB: Final = 2**30


class Severity(Enum):
    """What an objection means for a pod that takes traffic."""

    AT_ONCE = "at once"
    """The pod is useless now, and looking again makes it no better."""
    HARD = "hard"
    """The pod is useless if it is true."""
    SOFT = "soft"
    """The pod answers, but slowly or short of what was promised."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why the gate of a pod must not be open."""

    reason: Reason
    message: str
    severity: Severity


def objection(
    pod: PodView,
    *,
    report: NodeVRAMReportStatus,
    state: SidecarState | None,
    config: GroupConfig,
    expected: Expectation,
) -> Objection | None:
    """What in a fresh report speaks most against the pod; None when all is where it should be.

    ``state`` is None while the sidecar does not answer: then only the GPUs themselves are looked at, as for a pod
    whose sidecar the agent did not hear.
    """
    found = list(_of_gpus(pod, report))
    if state is not None and heard(pod, report):
        found += _of_models(pod, report, state, config, expected)
    order = list(Severity)
    return min(found, key=lambda one: order.index(one.severity), default=None)


def heard(pod: PodView, report: NodeVRAMReportStatus) -> bool:
    """Whether the report tells all models in the memory of the pod, so that one that it lacks is not there."""
    return pod.reference in report.heard


def driver_failed(report: NodeVRAMReportStatus) -> bool:
    """Whether the driver failed before it showed the agent a GPU: that the report has none says nothing then."""
    return not report.gpus and any(one.reason == Reason.DRIVER_FAILED for one in report.conditions)


def gpus_of(pod: PodView, report: NodeVRAMReportStatus) -> list[GPUReport]:
    """The GPUs that the kubelet gave the pod; none where the agent does not know who has which."""
    return [gpu for gpu in report.gpus if pod.reference in gpu.pods]


def occupancy(pods: Iterable[ObservedPod], report_of: Callable[[str], Report | None]) -> str:
    """What the models of pods took of their GPUs at load, e.g. ``15.2/22.5 GiB``; empty where no GPU is reported.

    Not what is used now: that stands in the reports, and would change the status with every request.
    """
    taken, cards = 0, dict[str, int]()
    for observed in pods:
        report = report_of(observed.pod.node)
        mine = gpus_of(observed.pod, report.status) if report else []
        cards |= {gpu.uuid: gpu.total_mebibytes for gpu in mine}
        if mine and observed.state is not None:
            taken += sum(model.size_vram for model in observed.state.models)
    return f"{taken / _GIB:.1f}/{sum(cards.values()) * _MIB / _GIB:.1f} GiB" if cards else ""


def _of_gpus(pod: PodView, report: NodeVRAMReportStatus) -> Iterator[Objection]:
    mine = gpus_of(pod, report)
    for gpu in mine:
        if not gpu.healthy:
            yield Objection(Reason.GPU_UNHEALTHY, f"GPU {gpu.uuid}: {gpu.reason}", Severity.AT_ONCE)
    if not report.gpus and not driver_failed(report):
        message = f"the agent of {pod.node} finds no GPU there: check the driver, and that the agent may use it"
        yield Objection(Reason.NO_GPU_FOUND, message, Severity.AT_ONCE)


def _of_models(
    pod: PodView, report: NodeVRAMReportStatus, state: SidecarState, config: GroupConfig, expected: Expectation
) -> Iterator[Objection]:
    resident = {model.name: model for model in report.models if model.pod == pod.reference}
    wanted = pinned(config)
    for told in (model for model in state.models if model.name in wanted):
        found = resident.get(told.name)
        if found is None:
            message = f"{told.name} is not in memory by the node's report"
            yield Objection(Reason.NOT_RESIDENT, message, Severity.HARD)
            continue
        if told.digest is not None and found.digest != told.digest:
            message = f"{told.name} was loaded from {found.digest}, planned is {told.digest}"
            yield Objection(Reason.DIGEST_MISMATCH, message, Severity.AT_ONCE)
        yield from _slow(found, expected.contexts.get(told.name, 0))
    yield from _measured_too_little(pod, report, sum(expected.planned.get(model, 0) for model in wanted))


def _slow(model: ResidentModel, context: int) -> Iterator[Objection]:
    if model.size_vram < model.size:
        share = 100 * (model.size - model.size_vram) / model.size
        message = f"{share:.0f} % of {model.name} in system memory: give it a larger GPU or a smaller context"
        yield Objection(Reason.CPU_OFFLOAD, message, Severity.SOFT)
    if 0 < model.context_length < context:
        message = f"{model.name} was loaded with {model.context_length} tokens of context, planned are {context}"
        yield Objection(Reason.CONTEXT_TOO_SMALL, message, Severity.SOFT)


def _measured_too_little(pod: PodView, report: NodeVRAMReportStatus, planned: int) -> Iterator[Objection]:
    """The driver counts by process; without the node's process numbers it counts nothing, which proves nothing."""
    used = [process.used_mebibytes for gpu in report.gpus for process in gpu.processes if process.pod == pod.reference]
    if planned and used and sum(used) * _MIB < LEAST_SHARE * planned:
        message = f"the driver counts {sum(used)} MiB for the pod, {planned // _MIB} MiB are expected"
        yield Objection(Reason.CPU_OFFLOAD, message, Severity.SOFT)
