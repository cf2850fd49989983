"""OllamaDeployment: a pool of Ollama servers on hardware, serving the models of its ModelSets."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ollama_fleet.api.base import Bytes, Digest, Document, Observed
from ollama_fleet.api.common import Condition, Duration, LocalReference, Name, Quantity
from ollama_fleet.api.schema import list_map, list_set, rule, rules

Profile = Literal["chat", "agent", "batch", "embedding"]
KVCacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
CacheType = Literal["Ephemeral", "Node", "Claim"]
ReadinessPolicy = Literal["VRAM", "Resident", "None"]


class GPUSpec(Document):
    """Whole GPUs for each server."""

    count: int = Field(ge=1, le=16)
    """GPUs per server."""
    resource_name: str | None = Field(default=None, max_length=253)
    """Extended resource to request. Default ``nvidia.com/gpu``."""
    products: list[Annotated[str, Field(min_length=1, max_length=63)]] | None = Field(
        default=None, max_length=32, json_schema_extra=list_set()
    )
    """Accepted values of the node label ``nvidia.com/gpu.product``; any when absent."""
    min_memory: Quantity | None = None
    """Smallest memory per GPU. A 24 GB card satisfies ``24Gi``."""


class CPUSpec(Document):
    """Cores and memory for each server without a GPU."""

    cores: Quantity
    """Requested cores, e.g. ``2`` or ``500m``; idle ones may be used beyond."""
    memory: Quantity
    """Requested memory and limit, e.g. ``4Gi``."""


class HardwareSpec(Document):
    """What one server runs on: GPUs or cores, exactly one of them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.gpu) != has(self.cpu)", "set exactly one of hardware.gpu and hardware.cpu")
        )
    )

    gpu: GPUSpec | None = None
    cpu: CPUSpec | None = None


class EnvVar(Document):
    """An environment variable of the Ollama container."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    value: str = Field(max_length=4096)


class TuningSpec(Document):
    """Explicit values that win over what the operator computes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.kvCacheType) || self.kvCacheType in ['f32', 'f16', 'bf16'] || "
                "!has(self.flashAttention) || self.flashAttention",
                "a quantised kvCacheType needs flash attention: remove flashAttention: false or choose f16",
                field=".kvCacheType",
            )
        )
    )

    num_parallel: int | None = Field(default=None, ge=1, le=64)
    """``OLLAMA_NUM_PARALLEL``"""
    context_length: int | None = Field(default=None, ge=4, le=10_485_760)
    """``OLLAMA_CONTEXT_LENGTH``, for models that name none."""
    kv_cache_type: KVCacheType | None = None
    """``OLLAMA_KV_CACHE_TYPE``; quantised types need flash attention."""
    flash_attention: bool | None = None
    """``OLLAMA_FLASH_ATTENTION``"""
    max_loaded_models: int | None = Field(default=None, ge=1, le=64)
    """``OLLAMA_MAX_LOADED_MODELS``"""
    keep_alive: Duration | None = None
    """``OLLAMA_KEEP_ALIVE`` for OnDemand models that name none."""
    max_queue: int | None = Field(default=None, ge=1, le=65536)
    """``OLLAMA_MAX_QUEUE``"""
    sched_spread: bool | None = None
    """``OLLAMA_SCHED_SPREAD``"""
    gpu_overhead: Quantity | None = None
    """Memory left free per GPU: ``OLLAMA_GPU_OVERHEAD`` up to 0.24, ``LLAMA_ARG_FIT_TARGET`` from 0.30."""
    load_timeout: Duration | None = None
    """``OLLAMA_LOAD_TIMEOUT``: no progress of a load for this long fails it."""
    extra_env: list[EnvVar] | None = Field(default=None, max_length=64, json_schema_extra=list_map("name"))
    """Further variables. One that the chosen Ollama version does not know is rejected by name."""


class CacheSpec(Document):
    """Where the blobs of the models live."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.path) || self.type == 'Node'",
                "path counts for cache type Node only: remove it or set type",
                field=".path",
            ),
            rule(
                "has(self.claimName) == (self.type == 'Claim')",
                "claimName belongs to cache type Claim, which needs it: set both or neither",
            ),
            rule(
                "!has(self.sizeLimit) || self.type == 'Ephemeral'",
                "sizeLimit counts for cache type Ephemeral only: remove it or set type",
                field=".sizeLimit",
            ),
        )
    )

    type: CacheType
    """``Ephemeral``: an emptyDir of the pod. ``Node``: a directory of the node, filled before a pod is placed there.
    ``Claim``: a PersistentVolumeClaim."""
    path: str | None = Field(default=None, max_length=256, pattern=r"^/[^\x00]*$")
    """``Node`` only: directory on the node; a directory per namespace is made below it."""
    claim_name: Name | None = None
    """``Claim`` only: an existing claim."""
    size_limit: Quantity | None = None
    """``Ephemeral`` only: limit of the emptyDir."""


EPHEMERAL = CacheSpec(type="Ephemeral")


class StorageSpec(Document):
    """Storage of the servers."""

    cache: CacheSpec | None = None


class ReadinessSpec(Document):
    """When a pod counts as ready."""

    policy: ReadinessPolicy | None = None
    """``VRAM``: models measured in GPU memory. ``Resident``: models in memory and a token generated (CPU default).
    ``None``: Ollama answers."""
    timeout: Duration | None = None
    """How long one model may take to load. Default 10m."""


class PlacementSpec(Document):
    """Where pods may run; passed through to the pod template."""

    node_selector: dict[str, str] | None = None
    tolerations: list[dict[str, Any]] | None = Field(default=None, max_length=32)
    affinity: dict[str, Any] | None = None
    topology_spread: list[dict[str, Any]] | None = Field(default=None, max_length=8)
    priority_class_name: Name | None = None
    runtime_class_name: Name | None = None


class OllamaDeploymentSpec(Document):
    """Desired servers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.image) || has(self.version)",
                "image needs version: say which Ollama is in the image, e.g. version: 0.32.3",
                field=".image",
            ),
            rule(
                "!has(self.readiness) || !has(self.readiness.policy) || self.readiness.policy != 'VRAM' || "
                "has(self.hardware.gpu)",
                "readiness.policy VRAM needs hardware.gpu: use Resident on CPU",
                field=".readiness",
            ),
        )
    )

    model_sets: list[LocalReference] = Field(min_length=1, max_length=16, json_schema_extra=list_map("name"))
    """ModelSets of the same namespace whose models are served."""
    version: str | None = Field(default=None, max_length=32, pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")
    """Ollama version, e.g. ``0.32.3``; its image comes from the operator's image policy."""
    image: str | None = Field(default=None, max_length=512)
    """An image of your own instead of the policy's, best by digest; ``version`` then says which Ollama is in it."""
    replicas: int | None = Field(default=None, ge=0, le=1000)
    """Servers per group. Default 1."""
    profile: Profile | None = None
    """Workload the defaults are chosen for. Default ``chat``."""
    hardware: HardwareSpec
    tuning: TuningSpec | None = None
    storage: StorageSpec | None = None
    readiness: ReadinessSpec | None = None
    placement: PlacementSpec | None = None
    suspend: bool | None = None
    """Scale to zero and keep the caches."""


class EffectiveValue(Observed):
    """A value in force and where it came from."""

    name: str
    value: str
    source: Literal["spec", "computed", "default"]
    reason: str = ""


class DownloadStatus(Observed):
    """Progress of a download, summed over the pods that pull."""

    completed_bytes: Bytes = 0
    total_bytes: Bytes = 0
    percent: int = Field(default=0, ge=0, le=100)


class ServedModel(Observed):
    """One served model over all pods of its group."""

    name: str
    group: str = ""
    digest: Digest | None = None
    """Digest of the registry's manifest."""
    size: Bytes = 0
    """Bytes to download."""
    memory: Bytes = 0
    """Bytes that Ollama claimed at load (largest pod)."""
    state: str = ""
    """The least advanced phase over the pods: Pulling, Cached, Loading, Warm, Failed."""
    warm: int = 0
    """Pods that hold it in memory."""
    download: DownloadStatus | None = None
    message: str = ""


class GroupStatus(Observed):
    """One group: a Deployment of identical servers."""

    name: str
    deployment: str
    """Name of the Deployment and of the Service."""
    replicas: int = 0
    ready: int = 0
    updated: int = 0
    models: list[str] = Field(default_factory=list)
    endpoint: str = ""


class OllamaDeploymentStatus(Observed):
    """What the operator knows about the servers."""

    observed_generation: int = -1
    conditions: list[Condition] = Field(default_factory=list, json_schema_extra=list_map("type"))
    replicas: int = 0
    """Pods, the minimum over the groups; what the scale subresource reads."""
    ready_replicas: int = 0
    ready: str = ""
    """``2/3``: ready pods of wanted pods, over all groups."""
    warm: str = ""
    """``4/5``: models in memory in every pod that must hold them, of all Pinned models."""
    selector: str = ""
    """Label selector of the first group, for the scale subresource."""
    endpoint: str = ""
    """URL of the first group's Service."""
    version: str = ""
    """Ollama version in force."""
    image: str = ""
    models: list[ServedModel] = Field(default_factory=list, json_schema_extra=list_map("name"))
    groups: list[GroupStatus] = Field(default_factory=list, json_schema_extra=list_map("name"))
    effective: list[EffectiveValue] = Field(default_factory=list, json_schema_extra=list_map("name"))
