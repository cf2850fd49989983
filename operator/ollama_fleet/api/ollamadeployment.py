"""OllamaDeployment: a pool of Ollama servers on hardware, serving the models of its ModelSets."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from ollama_fleet.api.base import Document
from ollama_fleet.api.common import Duration, LocalReference, Name, Quantity
from ollama_fleet.api.environment import OWNED, TUNED
from ollama_fleet.api.placement import PlacementSpec as PlacementSpec  # noqa: PLC0414 - part of this module too
from ollama_fleet.api.schema import list_map, list_set, rule, rules, words

Profile = Literal["chat", "agent", "batch", "embedding"]
KVCacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
CacheType = Literal["Ephemeral", "Node", "Claim"]
ReadinessPolicy = Literal["VRAM", "Resident", "None"]


class GPUSpec(Document):
    """Whole GPUs for each server."""

    count: int = Field(ge=1, le=16)
    """GPUs per server."""
    resource_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$",
        json_schema_extra=words("must be an extended resource such as nvidia.com/gpu"),
    )
    """Extended resource to request. Default ``nvidia.com/gpu``."""
    products: list[Annotated[str, Field(min_length=1, max_length=63)]] | None = Field(
        default=None, min_length=1, max_length=32, json_schema_extra=list_set()
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
    """Whole GPUs for each server."""
    cpu: CPUSpec | None = None
    """Cores and memory for each server without a GPU."""


EMBEDDING_HARDWARE: Final = HardwareSpec(cpu=CPUSpec(cores="2", memory="4Gi"))
"""Encoders are small and fast enough on cores; GPUs are for those who ask for them."""


def _hardware(given: dict[str, Any]) -> HardwareSpec:
    return EMBEDDING_HARDWARE if given.get("profile") == "embedding" else HardwareSpec()


_OWNED: Final = ", ".join(f"'{name}': '{why}'" for name, why in sorted(OWNED.items()))
_TUNED: Final = ", ".join(f"'{name}': '{field}'" for name, field in sorted(TUNED.items()))


class EnvVar(Document):
    """An environment variable of the Ollama container."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!(self.name in {sorted(OWNED)})",
                f"remove it: {', '.join(sorted(OWNED))} belong to the operator",
                field=".name",
                says=f"self.name + ' belongs to the operator, remove it: ' + {{{_OWNED}}}[self.name]",
            ),
            rule(
                f"!(self.name in {sorted(TUNED)})",
                f"{', '.join(sorted(TUNED))} have fields of their own below spec.tuning: set those instead",
                field=".name",
                says=f"self.name + ' has a field of its own: set spec.tuning.' + {{{_TUNED}}}[self.name] + ' instead'",
            ),
        )
    )

    name: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        json_schema_extra=words("must be the name of a variable: letters, digits and '_', no digit first"),
    )
    """Name of the variable."""
    value: str = Field(max_length=4096)
    """Its value."""


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
    host_memory: Quantity | None = None
    """Host memory of a server with GPUs, request and limit, instead of what is computed from its models."""
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
    path: str | None = Field(
        default=None,
        max_length=256,
        pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+/?$",
        json_schema_extra=words(
            "must be an absolute path such as /var/lib/ollama-fleet: letters, digits, '_', '-' and '.', no leading '.'"
        ),
    )
    """``Node`` only: directory on the node; a directory per namespace is made below it."""
    claim_name: Name | None = None
    """``Claim`` only: an existing claim. A Job writes to it, servers only read. ReadWriteMany; or ReadWriteOnce with
    one server, which a rollout then stops before it starts the next."""
    size_limit: Quantity | None = None
    """``Ephemeral`` only: limit of the emptyDir."""


EPHEMERAL = CacheSpec(type="Ephemeral")


class StorageSpec(Document):
    """Storage of the servers."""

    cache: CacheSpec | None = None
    """Where the blobs of the models live. Default ``Ephemeral``."""


class ReadinessSpec(Document):
    """When a pod counts as ready."""

    policy: ReadinessPolicy | None = None
    """``VRAM``: models measured in GPU memory. ``Resident``: models in memory and a token generated (CPU default).
    ``None``: Ollama answers."""
    timeout: Duration | None = Field(
        default=None,
        json_schema_extra=rules(
            rule(
                "!self.matches(r'^[0-9.hms]+$') || duration(self) >= duration('1s')",
                "must be at least 1s: a shorter time lets no model load",
            )
        ),
    )
    """How long one model may take to load. Default 10m, for models above 30 GB what they take at 50 MB/s."""


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
                "(has(self.hardware) && has(self.hardware.gpu))",
                "readiness.policy VRAM needs hardware.gpu: use Resident on CPU",
                field=".readiness.policy",
            ),
            rule(
                "!has(self.tuning) || !has(self.tuning.gpuOverhead) || (has(self.hardware) && has(self.hardware.gpu))",
                "tuning.gpuOverhead needs hardware.gpu: remove it on CPU",
                field=".tuning.gpuOverhead",
            ),
            rule(
                "!has(self.tuning) || !has(self.tuning.hostMemory) || (has(self.hardware) && has(self.hardware.gpu))",
                "tuning.hostMemory needs hardware.gpu: on CPU set hardware.cpu.memory",
                field=".tuning.hostMemory",
            ),
            rule(
                "has(self.hardware) || (has(self.profile) && self.profile == 'embedding')",
                "set hardware.gpu or hardware.cpu: only profile embedding has a default, 2 cores and 4Gi",
            ),
        )
    )

    model_sets: list[LocalReference] = Field(min_length=1, max_length=16, json_schema_extra=list_map("name"))
    """ModelSets of the same namespace whose models are served."""
    version: str | None = Field(
        default=None,
        max_length=32,
        pattern=r"^[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}$",
        json_schema_extra=words("must be a released version of Ollama with three numbers, such as 0.32.3"),
    )
    """Ollama version, e.g. ``0.32.3``; its image comes from the operator's image policy."""
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$",
        json_schema_extra=words("must be an image such as registry.example.com/ollama:0.32.3 or name@sha256:..."),
    )
    """An image of your own instead of the policy's, best by digest; ``version`` then says which Ollama is in it."""
    replicas: int | None = Field(default=None, ge=0, le=1000)
    """Servers per group. Default 1."""
    profile: Profile | None = None
    """Workload the defaults are chosen for. Default ``chat``."""
    hardware: HardwareSpec = Field(default_factory=_hardware)
    """What one server runs on. Profile ``embedding`` without it runs on 2 cores and 4Gi."""
    tuning: TuningSpec | None = None
    """Explicit values that win over what the operator computes."""
    storage: StorageSpec | None = None
    """Storage of the servers."""
    readiness: ReadinessSpec | None = None
    """When a pod counts as ready."""
    placement: PlacementSpec | None = None
    """Where pods may run."""
    suspend: bool | None = None
    """Scale to zero and keep the caches."""
