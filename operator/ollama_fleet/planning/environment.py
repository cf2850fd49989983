"""The environment of an Ollama container: explicit tuning over a safe baseline per profile and generation.

Each setting says where it came from, so that the status can tell people why a server runs as it does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ollama_fleet.api import names
from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.ollamadeployment import HardwareSpec, Profile, TuningSpec
from ollama_fleet.planning.quantities import mebibytes, parse_bytes
from ollama_fleet.planning.versions import Generation, Version

Source = Literal["spec", "computed", "default"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable."""

    name: str
    value: str
    source: Source
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a profile means where the spec says nothing."""

    parallel: int
    context_length: int
    max_queue: int


PROFILES: Final[dict[Profile, Defaults]] = {
    "chat": Defaults(parallel=4, context_length=8192, max_queue=512),
    "agent": Defaults(parallel=6, context_length=16384, max_queue=2048),
    "batch": Defaults(parallel=8, context_length=8192, max_queue=4096),
    # Ollama runs encoders with one slot whatever is asked for: replicas scale them.
    "embedding": Defaults(parallel=1, context_length=2048, max_queue=512),
}

_PROMPT_CACHE_MEBIBYTES: Final = 512
"""llama-server may keep 8 GiB of prompts in host memory unless told otherwise, per model."""


def build(
    *,
    version: Version,
    profile: Profile,
    tuning: TuningSpec,
    hardware: HardwareSpec,
    models: Sequence[GroupModel],
    parallel: int,
) -> tuple[Setting, ...]:
    """All variables of a group's Ollama container, sorted by name."""
    extra = [Setting(v.name, v.value, "spec", "spec.tuning.extraEnv") for v in tuning.extra_env or ()]
    # An explicit variable wins over a computed one of the same name.
    found = {
        setting.name: setting
        for settings in (
            _fixed(hardware),
            _generation(version, hardware, tuning),
            _tuned(PROFILES[profile], profile, tuning, models, parallel),
            extra,
        )
        for setting in settings
    }
    return tuple(found[name] for name in sorted(found))


def _fixed(hardware: HardwareSpec) -> Iterator[Setting]:
    yield Setting("HOME", "/home/ollama", "default", "Ollama writes its identity there")
    yield Setting("OLLAMA_HOST", f"127.0.0.1:{names.PORT_OLLAMA}", "default", "the sidecar is the door")
    yield Setting("OLLAMA_MODELS", names.PATH_MODELS, "default", "laid out by the puller")
    yield Setting("OLLAMA_NOPRUNE", "1", "default", "the store belongs to the puller")
    yield Setting("OLLAMA_NO_CLOUD", "1", "default", "prompts must not leave the cluster")
    if hardware.gpu is None:
        yield Setting("NVIDIA_VISIBLE_DEVICES", "void", "default", "no GPU was asked for")


def _generation(version: Version, hardware: HardwareSpec, tuning: TuningSpec) -> Iterator[Setting]:
    overhead = tuning.gpu_overhead
    if version.generation is Generation.LLAMA_SERVER:
        yield Setting("OLLAMA_VULKAN", "0", "default", "one GPU library, found faster")
        yield Setting(
            "LLAMA_ARG_CACHE_RAM",
            str(_PROMPT_CACHE_MEBIBYTES),
            "default",
            "bounds the prompt cache in host memory, 8192 MiB per model otherwise",
        )
        if overhead is not None and hardware.gpu is not None:
            yield Setting("LLAMA_ARG_FIT_TARGET", str(mebibytes(overhead)), "spec", "spec.tuning.gpuOverhead, in MiB")
    elif overhead is not None and hardware.gpu is not None:
        yield Setting("OLLAMA_GPU_OVERHEAD", str(parse_bytes(overhead)), "spec", "spec.tuning.gpuOverhead, in bytes")


def _tuned(
    defaults: Defaults, profile: Profile, tuning: TuningSpec, models: Sequence[GroupModel], parallel: int
) -> Iterator[Setting]:
    by_profile = f"profile {profile}"
    yield _choose("OLLAMA_CONTEXT_LENGTH", tuning.context_length, "contextLength", defaults.context_length, by_profile)
    widest = max((model.parallel for model in models), default=1)
    why = "largest wish of the models" if parallel >= widest else f"what fits of the {widest} that are wished for"
    yield _choose("OLLAMA_NUM_PARALLEL", tuning.num_parallel, "numParallel", parallel, why)
    yield _choose(
        "OLLAMA_MAX_LOADED_MODELS", tuning.max_loaded_models, "maxLoadedModels", max(1, len(models)), "all models"
    )
    yield _choose("OLLAMA_MAX_QUEUE", tuning.max_queue, "maxQueue", defaults.max_queue, by_profile)
    yield _choose("OLLAMA_LOAD_TIMEOUT", tuning.load_timeout, "loadTimeout", "10m", "a load without progress is stuck")
    # Requests carry the keep-alive of their model; the variable only counts for what bypasses the sidecar.
    yield _choose("OLLAMA_KEEP_ALIVE", tuning.keep_alive, "keepAlive", "-1", "Pinned models stay in memory")
    if tuning.kv_cache_type is not None:
        yield Setting("OLLAMA_KV_CACHE_TYPE", tuning.kv_cache_type, "spec", "spec.tuning.kvCacheType")
    if tuning.flash_attention is not None:
        yield Setting("OLLAMA_FLASH_ATTENTION", _flag(tuning.flash_attention), "spec", "spec.tuning.flashAttention")
    if tuning.sched_spread is not None:
        yield Setting("OLLAMA_SCHED_SPREAD", _flag(tuning.sched_spread), "spec", "spec.tuning.schedSpread")


def _choose(name: str, explicit: int | str | None, path: str, otherwise: int | str, reason: str) -> Setting:
    if explicit is not None:
        return Setting(name, str(explicit), "spec", f"spec.tuning.{path}")
    return Setting(name, str(otherwise), "computed", reason)


def _flag(value: bool) -> str:  # noqa: FBT001 - it is the value itself
    return "1" if value else "0"
