"""NodeVRAMReport: what one node's GPUs hold, written by that node's agent. Cluster-scoped, named like the node."""

from typing import Annotated, Literal

from pydantic import Field

from ollama_fleet.api.base import Bytes, Digest, Document, Observed, Tokens
from ollama_fleet.api.common import Condition, Word
from ollama_fleet.api.schema import list_atomic, list_map, words

Namespace = Annotated[
    str,
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        json_schema_extra=words("must be the name of a namespace: a-z, 0-9 and '-', letters or digits at both ends"),
    ),
]
Mebibytes = Annotated[int, Field(ge=0)]


class RetainedBlob(Document):
    """A blob that garbage collection must keep."""

    digest: Digest
    """Which blob."""
    namespace: Namespace
    """Namespace whose cache it is in."""


class NodeVRAMReportSpec(Document):
    """What the operator asks of the node."""

    retain: list[RetainedBlob] | None = Field(
        default=None, max_length=4096, json_schema_extra=list_map("digest", "namespace")
    )
    """Blobs to keep in the node's cache. Absent or stale: nothing is deleted."""


class GPUProcess(Observed):
    """A process on a GPU."""

    pid: int
    """Process id in the node's namespace."""
    used_mebibytes: Mebibytes
    """GPU memory that the driver counts for it."""
    pod: Word = ""
    """``namespace/name`` where it is known."""
    weights: Digest | None = None
    """Digest of the weights that it serves, where it is a server of a model."""


class GPUReport(Observed):
    """One GPU or MIG instance."""

    uuid: Word
    """The driver's name of the device, e.g. ``GPU-...`` or ``MIG-...``."""
    index: int
    """The driver's number of the device, which may change at a restart."""
    product: Word = ""
    """Product name, e.g. ``NVIDIA H100 80GB HBM3``."""
    healthy: bool = True
    """Whether new work can run on it."""
    reason: Word = ""
    """Why it is not healthy."""
    total_mebibytes: Mebibytes = 0
    """All memory of the device."""
    reserved_mebibytes: Mebibytes = 0
    """What the driver keeps for itself."""
    used_mebibytes: Mebibytes = 0
    """What processes use."""
    free_mebibytes: Mebibytes = 0
    """What is left."""
    memory_source: Literal["nvml", "system", "override"] = "nvml"
    """Where the figures are from: the driver, the node's memory (shared with the CPU), or a setting."""
    pods: list[Word] = Field(default_factory=list, max_length=64, json_schema_extra=list_atomic())
    """``namespace/name`` of the pods that the kubelet gave this GPU to."""
    processes: list[GPUProcess] = Field(default_factory=list, max_length=256, json_schema_extra=list_atomic())
    """Processes with memory on it."""


class ResidentModel(Observed):
    """A model in the memory of a pod of this node."""

    pod: Word
    """``namespace/name``."""
    name: Word
    """The served name."""
    digest: Digest
    """Digest of the manifest that Ollama reports."""
    weights: Digest | None = None
    """Digest of its weights: names over the same weights share them in memory."""
    size: Bytes = 0
    """Bytes that Ollama claims."""
    size_vram: Bytes = 0
    """Bytes of them that it claims in GPU memory."""
    context_length: Tokens = 0
    """Tokens of context it was loaded with."""
    expires_at: Word = ""
    """When it leaves memory if nobody asks for it, RFC 3339; empty: it stays."""


class CachedBlob(Observed):
    """A blob of the node's cache."""

    digest: Digest
    """Which blob."""
    namespace: Namespace
    """Namespace whose cache it is in."""
    size: Bytes = 0
    """Bytes on disk."""


class ReportSummary(Observed):
    """The report in three numbers, for people."""

    gpus: Word = ""
    """``7/8``: healthy GPUs of all."""
    used: Word = ""
    """``41.2/48.0 GiB``: used memory of all GPUs."""
    models: int = 0
    """Models in memory."""


class NodeVRAMReportStatus(Observed):
    """What the agent sees."""

    observed_generation: int = -1
    """Generation of the spec that the agent acts on."""
    sequence: int = 0
    """Counts reports; a report is fresh only once it has moved."""
    agent_version: Word = ""
    """Version of the agent."""
    driver_version: Word = ""
    """Version of the GPU driver."""
    summary: ReportSummary = Field(default_factory=ReportSummary)
    """The report in three numbers."""
    memory_mebibytes: Mebibytes = 0
    """Memory of the node."""
    gpus: list[GPUReport] = Field(default_factory=list, max_length=128, json_schema_extra=list_map("uuid"))
    """GPUs and MIG instances."""
    models: list[ResidentModel] = Field(default_factory=list, max_length=512, json_schema_extra=list_atomic())
    """Models in the memory of this node's pods."""
    heard: list[Word] = Field(default_factory=list, max_length=512, json_schema_extra=list_atomic())
    """``namespace/name`` of the pods whose sidecars answered lately: what `models` lacks of these is not in memory."""
    cache: list[CachedBlob] = Field(default_factory=list, max_length=4096, json_schema_extra=list_atomic())
    """Blobs of the node's cache."""
    conditions: list[Condition] = Field(default_factory=list, max_length=16, json_schema_extra=list_map("type"))
    """``Ready``: the agent sees the GPUs of its node, all of them healthy, or that there is none. ``Attributed``: it
    knows which pods GPUs and their processes belong to. Their times begin anew when the agent is restarted."""
