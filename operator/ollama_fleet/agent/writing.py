"""When a report is written: at once where it matters, rarely where it does not, never two at a time. Pure."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ollama_fleet.api.nodevramreport import GPUReport, NodeVRAMReportStatus
from ollama_fleet.kube.backoff import Backoff

LEAST_SECONDS: Final = 2.0
"""Between the starts of two writes."""
HEARTBEAT_SECONDS: Final = 30.0
JITTER: Final = 0.1
"""Of the heartbeat, both ways: the agents of a fleet that started together drift apart."""
MOVED_MEBIBYTES: Final = 256
MOVED_SHARE: Final = 0.02
"""Of the device's memory. Used memory moved when it moved by more than this and ``MOVED_MEBIBYTES``."""
_RETRY_LIMIT: Final = 30.0


def urgent(written: NodeVRAMReportStatus | None, seen: NodeVRAMReportStatus) -> str:
    """What happened since the last report that readers must know at once; empty when nothing did."""
    if written is None:
        return "first"
    if written.heard != seen.heard or _models(written) != _models(seen):
        return "models"
    if _health(written) != _health(seen):
        return "health"
    if _owners(written) != _owners(seen):
        return "pods"
    before = {gpu.uuid: gpu for gpu in written.gpus}
    if any(_moved(before[gpu.uuid], gpu) for gpu in seen.gpus):
        return "memory"
    return ""


@dataclass(slots=True)
class Writing:
    """Decides for one writer; ``clock`` is monotonic seconds."""

    clock: Callable[[], float]
    rng: random.Random = field(default_factory=random.Random)
    _written: NodeVRAMReportStatus | None = None
    _under_way: NodeVRAMReportStatus | None = None
    _not_before: float = 0.0
    _heartbeat: float = 0.0
    _failures: int = 0

    def due(self, seen: NodeVRAMReportStatus) -> str:
        """Why ``seen`` is to be written now; empty when it is not."""
        now = self.clock()
        if self._under_way is not None or now < self._not_before:
            return ""
        return urgent(self._written, seen) or ("heartbeat" if now >= self._heartbeat else "")

    def begin(self, report: NodeVRAMReportStatus) -> None:
        """A write starts."""
        if self._under_way is not None:
            raise RuntimeError("one write at a time")
        self._under_way = report
        self._not_before = self.clock() + LEAST_SECONDS

    def succeeded(self) -> None:
        """The write is stored."""
        self._written, self._under_way, self._failures = self._under_way, None, 0
        self._heartbeat = self.clock() + HEARTBEAT_SECONDS * self.rng.uniform(1 - JITTER, 1 + JITTER)

    def failed(self) -> None:
        """The write was refused, or nobody knows whether it is stored: it is tried again, less and less often."""
        self._under_way = None
        self._failures += 1
        delay = Backoff(first=LEAST_SECONDS, limit=_RETRY_LIMIT, rng=self.rng).delay(self._failures)
        self._not_before = max(self._not_before, self.clock() + delay)
        self._heartbeat = self._not_before


def _models(report: NodeVRAMReportStatus) -> list[tuple[str, str, str, int, int, int]]:
    return [(one.pod, one.name, one.digest, one.size, one.size_vram, one.context_length) for one in report.models]


def _health(report: NodeVRAMReportStatus) -> tuple[object, ...]:
    gpus = [(gpu.uuid, gpu.healthy, gpu.reason, gpu.total_mebibytes, gpu.memory_source) for gpu in report.gpus]
    return gpus, report.driver_version, [(one.type, one.status, one.reason) for one in report.conditions]


def _owners(report: NodeVRAMReportStatus) -> list[tuple[list[str], set[str]]]:
    return [(gpu.pods, {process.pod for process in gpu.processes}) for gpu in report.gpus]


def _moved(before: GPUReport, after: GPUReport) -> bool:
    limit = max(MOVED_MEBIBYTES, MOVED_SHARE * after.total_mebibytes)
    return abs(after.used_mebibytes - before.used_mebibytes) > limit
