"""Nodes as the planner reads them: what they say of themselves, and what their agents say of their GPUs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ollama_fleet.api.nodevramreport import GPUReport, NodeVRAMReportStatus
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers.caches import BY_DEPLOYMENT, Caches
from ollama_fleet.controllers.placement import node_view
from ollama_fleet.controllers.reports import Reports
from ollama_fleet.planning.placement import GPUView, NodeView

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of the cluster."""

    caches: Caches
    reports: Reports

    def views(self, *, deployment: str) -> Iterator[NodeView]:
        """For the OllamaDeployment ``namespace/name``: what its own servers hold is no foreign use."""
        pods = self.caches.pods.by_index(BY_DEPLOYMENT, deployment)
        own = frozenset(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods)
        for node in self.caches.nodes.list():
            view, report = node_view(node), self.reports.of(node["metadata"]["name"])
            if report is None:
                yield view
            elif report.fresh:
                yield replace(view, gpus=gpu_views(report.status, own=own))
            else:
                yield replace(view, silent=True)


def gpu_views(report: NodeVRAMReportStatus, *, own: frozenset[str]) -> tuple[GPUView, ...]:
    """The GPUs of a report. ``own``: servers (``namespace/name``) whose memory counts as free, for they may be planned
    anew.
    """
    attributed = any(one.reason == Reason.PODS_KNOWN for one in report.conditions)
    return tuple(
        GPUView(
            uuid=gpu.uuid,
            product=gpu.product,
            total=gpu.total_mebibytes * _MIB,
            reserved=gpu.reserved_mebibytes * _MIB,
            foreign=_foreign(gpu, report, own, attributed=attributed) * _MIB,
            healthy=gpu.healthy,
            taken=bool(gpu.pods) and own.isdisjoint(gpu.pods),
        )
        for gpu in report.gpus
    )


def _foreign(gpu: GPUReport, report: NodeVRAMReportStatus, own: frozenset[str], *, attributed: bool) -> int:
    """MiB that others hold."""
    held = not own.isdisjoint(gpu.pods)
    if attributed and held:
        return sum(process.used_mebibytes for process in gpu.processes if process.pod not in own)
    # Where pods are not known and servers of the fleet run, the memory is theirs as far as anybody can tell.
    ours = held or (not attributed and not gpu.pods and bool(report.models))
    return 0 if ours else gpu.used_mebibytes
