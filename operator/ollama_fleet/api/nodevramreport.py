"""NodeVRAMReport: what one node's GPUs hold, written by that node's agent. Cluster-scoped, named like the node."""

from typing import Literal

from pydantic import Field

from ollama_fleet.api.base import Bytes, Digest, Document, Observed
from ollama_fleet.api.common import Condition
from ollama_fleet.api.schema import list_map


class RetainedBlob(Document):
    """A blob that garbage collection must keep."""

    digest: Digest
    namespace: str = Field(max_length=63)


class NodeVRAMReportSpec(Document):
    """What the operator asks of the node."""

    retain: list[RetainedBlob] | None = Field(default=None, max_length=4096)
    """Blobs to keep in the node's cache. Absent or stale: nothing is deleted."""


class GPUProcess(Observed):
    """A process on a GPU."""

    pid: int
    used_mebibytes: int = Field(ge=0)
    pod: str = ""
    """``namespace/name`` where it is known."""


class GPUReport(Observed):
    """One GPU or MIG instance."""

    uuid: str
    index: int
    product: str = ""
    healthy: bool = True
    reason: str = ""
    total_mebibytes: int = Field(default=0, ge=0)
    reserved_mebibytes: int = Field(default=0, ge=0)
    used_mebibytes: int = Field(default=0, ge=0)
    free_mebibytes: int = Field(default=0, ge=0)
    memory_source: Literal["nvml", "system", "override"] = "nvml"
    pods: list[str] = Field(default_factory=list)
    """``namespace/name`` of the pods that the kubelet gave this GPU to."""
    processes: list[GPUProcess] = Field(default_factory=list)


class ResidentModel(Observed):
    """A model in the memory of a pod of this node."""

    pod: str
    name: str
    digest: Digest
    size: Bytes = 0
    size_vram: Bytes = 0
    context_length: int = 0


class CachedBlob(Observed):
    """A blob of the node's cache."""

    digest: Digest
    namespace: str
    size: Bytes = 0


class ReportSummary(Observed):
    """The report in three numbers, for people."""

    gpus: str = ""
    """``7/8``: healthy GPUs of all."""
    used: str = ""
    """``41.2/48.0 GiB``: used memory of all GPUs."""
    models: int = 0
    """Models in memory."""


class NodeVRAMReportStatus(Observed):
    """What the agent sees."""

    observed_generation: int = -1
    sequence: int = 0
    """Counts reports; a report is fresh only once it has moved."""
    agent_version: str = ""
    driver_version: str = ""
    summary: ReportSummary = Field(default_factory=ReportSummary)
    memory_mebibytes: int = 0
    """Memory of the node."""
    gpus: list[GPUReport] = Field(default_factory=list, json_schema_extra=list_map("uuid"))
    models: list[ResidentModel] = Field(default_factory=list)
    cache: list[CachedBlob] = Field(default_factory=list)
    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=list_map("type"))
