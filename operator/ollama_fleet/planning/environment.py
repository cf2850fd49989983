"""The environment of an Ollama container: explicit tuning over what follows from profile, models and GPUs.

Each setting says where it came from, so that the status can tell people why a server runs as it does.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from ollama_fleet.api import names
from ollama_fleet.api.group import WAITING_PER_SLOT, GroupModel
from ollama_fleet.api.ollamadeployment import HardwareSpec, Profile, TuningSpec
from ollama_fleet.planning.abilities import PLAIN_CACHES, cache_on_cuda, flash_kernel
from ollama_fleet.planning.footprints import MARGIN, Mode
from ollama_fleet.planning.hostmemory import checkpoints, prompt_cache, prompt_cache_on_cpu
from ollama_fleet.planning.inventory import GPU_RESOURCE
from ollama_fleet.planning.profiles import PROFILES, Defaults
from ollama_fleet.planning.quantities import mebibytes, parse_bytes
from ollama_fleet.planning.versions import Generation, Version
from ollama_fleet.sizing.estimate import MIB
from ollama_fleet.sizing.shape import ModelShape

Source = Literal["spec", "computed", "default"]

SLOWEST_READ: Final = 50_000_000
"""Bytes a second of storage that is slow but works."""
_LEAST_LOAD_SECONDS: Final = 600
_LOADED_STEP: Final = 8
"""Models that can join before the count would restart servers."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One environment variable."""

    name: str
    value: str
    source: Source
    reason: str = ""


@dataclass(frozen=True)
class Basis:
    """What the environment of one group follows from."""

    version: Version
    profile: Profile
    tuning: TuningSpec
    hardware: HardwareSpec
    models: Sequence[GroupModel]
    shapes: Mapping[str, ModelShape]
    """By served name."""
    mode: Mode
    reasons: Mapping[str, str]
    """Why the mode is as it is, by variable."""

    @property
    def llama_server(self) -> bool:
        """Whether models run as processes of llama-server."""
        return self.version.generation is Generation.LLAMA_SERVER

    @property
    def defaults(self) -> Defaults:
        """What the profile means."""
        return PROFILES[self.profile]

    @cached_property
    def cache(self) -> int:
        """MiB of host memory for prompts, per model."""
        if self.hardware.gpu is not None:
            return prompt_cache(self.defaults, self.models, self.shapes, self.mode)
        return prompt_cache_on_cpu(self.defaults, parse_bytes(self.hardware.cpu.memory) if self.hardware.cpu else 0)

    @cached_property
    def flash(self) -> bool | None:
        """Whether flash attention is switched on or off; None leaves it to Ollama."""
        if self.tuning.flash_attention is not None or self.hardware.gpu is None:
            return self.tuning.flash_attention
        if not self.llama_server or self.mode.kv_type not in PLAIN_CACHES:
            return True
        nvidia = (self.hardware.gpu.resource_name or GPU_RESOURCE).startswith("nvidia.com/")
        able = all(model.name in self.shapes and flash_kernel(self.shapes[model.name]) for model in self.models)
        return True if nvidia and able else None

    @cached_property
    def choices(self) -> str:
        """Hash of everything chosen that the environment follows from: while it stays, servers run as they started.

        The models are not in it: those that come and go reach running servers.
        """
        mode = self.mode
        parts = {
            "version": str(self.version),
            "profile": self.profile,
            "tuning": self.tuning.to_wire(),
            "hardware": self.hardware.to_wire(),
            "mode": [mode.parallel, mode.kv_type, mode.spread, self.flash],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def build(basis: Basis) -> tuple[Setting, ...]:
    """All variables of a group's Ollama container, sorted by name."""
    extra = [Setting(v.name, v.value, "spec", "spec.tuning.extraEnv") for v in basis.tuning.extra_env or ()]
    # An explicit variable wins over a computed one of the same name.
    found = {
        setting.name: setting
        for settings in (_fixed(basis), _memory(basis), _attention(basis), _queues(basis), extra)
        for setting in settings
    }
    return tuple(found[name] for name in sorted(found))


def most_loaded(count: int) -> int:
    """``OLLAMA_MAX_LOADED_MODELS`` for so many models: memory decides, and a few more do not restart servers."""
    return -(-max(1, count) // _LOADED_STEP) * _LOADED_STEP


def load_seconds(models: Sequence[GroupModel]) -> int:
    """How long one model may take to load: never less than ten minutes."""
    largest = max((model.size for model in models), default=0)
    return max(_LEAST_LOAD_SECONDS, -(-largest // SLOWEST_READ))


def _fixed(basis: Basis) -> Iterator[Setting]:
    yield Setting("HOME", "/home/ollama", "default", "Ollama writes its identity there")
    yield Setting("OLLAMA_HOST", f"127.0.0.1:{names.PORT_OLLAMA}", "default", "the sidecar is the door")
    yield Setting("OLLAMA_MODELS", names.PATH_MODELS, "default", "laid out by the puller")
    yield Setting("OLLAMA_NOPRUNE", "1", "default", "the store belongs to the puller")
    yield Setting("OLLAMA_NO_CLOUD", "1", "default", "prompts must not leave the cluster")
    if basis.hardware.gpu is None:
        yield Setting("NVIDIA_VISIBLE_DEVICES", "void", "default", "no GPU was asked for")
    if basis.llama_server:
        yield Setting("OLLAMA_VULKAN", "0", "default", "one GPU library, found faster")


def _memory(basis: Basis) -> Iterator[Setting]:
    """What bounds memory, on the host and on the GPU."""
    if basis.llama_server:
        yield _prompt_cache(basis)
        count = checkpoints(basis.models, basis.shapes)
        if count is not None:
            why = "states of a slot to go back to, one per 8192 tokens of the longest context and two; 32 otherwise"
            yield Setting("LLAMA_ARG_CTX_CHECKPOINTS", str(count), "computed", why)
    if basis.hardware.gpu is not None:
        yield from _margin(basis)


def _prompt_cache(basis: Basis) -> Setting:
    if not basis.cache:
        why = f"profile {basis.profile}: no prompt comes back, so none is kept; 8192 MiB of host memory per model else"
    elif basis.hardware.gpu is None:
        why = "an eighth of the server's memory, at most 512 MiB per model for prompts; 8192 otherwise"
    else:
        why = (
            f"MiB of host memory per model for prompts of as many conversations as it has slots, at most "
            f"{basis.defaults.prompt_cache} with profile {basis.profile}; 8192 otherwise"
        )
    return Setting("LLAMA_ARG_CACHE_RAM", str(basis.cache), "computed", why)


def _margin(basis: Basis) -> Iterator[Setting]:
    """Memory that must stay free on each GPU, as each generation reads it."""
    explicit = basis.tuning.gpu_overhead
    if basis.llama_server and explicit is not None:
        yield Setting("LLAMA_ARG_FIT_TARGET", str(mebibytes(explicit)), "spec", "spec.tuning.gpuOverhead, in MiB")
    elif explicit is not None:
        yield Setting("OLLAMA_GPU_OVERHEAD", str(parse_bytes(explicit)), "spec", "spec.tuning.gpuOverhead, in bytes")
    elif not basis.llama_server:
        why = "Ollama keeps 457 MiB of each GPU free by itself, and the plan counts with it"
        yield Setting("OLLAMA_GPU_OVERHEAD", "0", "computed", why)
    elif not any(shape.weights.projector for shape in _known(basis)):
        # With a projector Ollama widens the margin itself, unless the variable is set.
        why = "MiB that the plan leaves free on each GPU; with less llama.cpp moves layers to the CPU"
        yield Setting("LLAMA_ARG_FIT_TARGET", str(MARGIN[Generation.LLAMA_SERVER] // MIB), "computed", why)


def _attention(basis: Basis) -> Iterator[Setting]:
    """How attention runs and what it keeps."""
    tuning, mode, reasons = basis.tuning, basis.mode, basis.reasons
    if tuning.kv_cache_type is not None:
        why = "spec.tuning.kvCacheType"
        if basis.hardware.gpu is not None and basis.llama_server and not cache_on_cuda(mode.kv_type):
            why += "; Ollama's CUDA build has no kernel for it, attention runs on the CPU: q8_0 and q4_0 do not"
        yield Setting("OLLAMA_KV_CACHE_TYPE", mode.kv_type, "spec", why)
    elif basis.hardware.gpu is not None:
        why = reasons.get("OLLAMA_KV_CACHE_TYPE", "no quantised cache is needed")
        yield Setting("OLLAMA_KV_CACHE_TYPE", mode.kv_type, "computed", why)
    if tuning.flash_attention is not None:
        value = _flag(tuning.flash_attention)
        yield Setting("OLLAMA_FLASH_ATTENTION", value, "spec", "spec.tuning.flashAttention")
    elif basis.flash is not None:
        yield Setting("OLLAMA_FLASH_ATTENTION", _flag(basis.flash), "computed", _why_flash(basis))
    if tuning.sched_spread is not None:
        yield Setting("OLLAMA_SCHED_SPREAD", _flag(tuning.sched_spread), "spec", "spec.tuning.schedSpread")
    elif basis.hardware.gpu is not None and basis.hardware.gpu.count > 1:
        why = reasons.get("OLLAMA_SCHED_SPREAD", "a model that one GPU holds is fastest on one")
        yield Setting("OLLAMA_SCHED_SPREAD", _flag(mode.spread), "computed", why)


def _why_flash(basis: Basis) -> str:
    if basis.mode.kv_type not in PLAIN_CACHES:
        return "a quantised cache needs it"
    if basis.llama_server:
        return "the plan counts with it, and CUDA has kernels for the heads of every model"
    return "the plan counts with it; Ollama up to 0.24 turns it on for some architectures only"


def _queues(basis: Basis) -> Iterator[Setting]:
    """Who is served at once, who waits, and for how long."""
    tuning, models, reasons = basis.tuning, basis.models, basis.reasons
    by_profile = f"profile {basis.profile}"
    context = f"{by_profile}, for models that name none; each model's own stands in its manifest"
    yield _choose(
        "OLLAMA_CONTEXT_LENGTH", tuning.context_length, "contextLength", basis.defaults.context_length, context
    )
    slots = reasons.get("OLLAMA_NUM_PARALLEL", "largest wish of the models")
    yield _choose("OLLAMA_NUM_PARALLEL", tuning.num_parallel, "numParallel", basis.mode.parallel, slots)
    loaded = f"memory decides, not a count: the group has {len(models)}, and some may join"
    yield _choose(
        "OLLAMA_MAX_LOADED_MODELS", tuning.max_loaded_models, "maxLoadedModels", most_loaded(len(models)), loaded
    )
    # What the sidecar lets through at once must always find a place.
    queue = max(basis.defaults.max_queue, basis.mode.parallel * len(models))
    waiting = (
        f"{by_profile}; the sidecar lets a request through when a slot is free and {WAITING_PER_SLOT} more wait there "
        "per slot, so this only bounds who waits for a load"
    )
    yield _choose("OLLAMA_MAX_QUEUE", tuning.max_queue, "maxQueue", queue, waiting)
    largest = max((model.size for model in models), default=0)
    stuck = (
        f"a load without progress for so long is stuck; the largest model has {largest / 1e9:.1f} GB, and "
        f"{SLOWEST_READ // 10**6} MB/s is slow"
    )
    yield _choose(
        "OLLAMA_LOAD_TIMEOUT", tuning.load_timeout, "loadTimeout", f"{-(-load_seconds(models) // 60)}m", stuck
    )
    pinned = any(model.residency == "Pinned" for model in models)
    keep = "Pinned models stay in memory" if pinned else "OnDemand models that name none leave memory after so long"
    # Requests carry the keep-alive of their model; the variable only counts for what bypasses the sidecar.
    yield _choose("OLLAMA_KEEP_ALIVE", tuning.keep_alive, "keepAlive", "-1" if pinned else "5m", keep)


def _known(basis: Basis) -> Iterator[ModelShape]:
    return (basis.shapes[model.name] for model in basis.models if model.name in basis.shapes)


def _choose(name: str, explicit: int | str | None, path: str, otherwise: int | str, reason: str) -> Setting:
    if explicit is not None:
        return Setting(name, str(explicit), "spec", f"spec.tuning.{path}")
    return Setting(name, str(otherwise), "computed", reason)


def _flag(value: bool) -> str:  # noqa: FBT001 - it is the value itself
    return "1" if value else "0"
