"""The environment variables that Ollama reads, and since and until which version.

From ``envconfig/config.go`` and ``discover/`` of the Ollama sources at v0.24.0 and v0.32.3. A variable that the chosen
version does not know would be ignored in silence, so it is refused by name instead.
"""

from dataclasses import dataclass
from typing import Final

from ollama_fleet.api.environment import OWNED, TUNED
from ollama_fleet.planning.versions import LLAMA_SERVER, Version


@dataclass(frozen=True, slots=True)
class Variable:
    """Versions that read a variable: ``since`` inclusive, ``until`` exclusive."""

    since: Version | None = None
    until: Version | None = None


_OLLAMA: Final = dict.fromkeys(
    (
        "OLLAMA_CONTEXT_LENGTH",
        "OLLAMA_DEBUG",
        "OLLAMA_FLASH_ATTENTION",
        "OLLAMA_GPU_OVERHEAD",
        "OLLAMA_KEEP_ALIVE",
        "OLLAMA_KV_CACHE_TYPE",
        "OLLAMA_LLM_LIBRARY",
        "OLLAMA_LOAD_TIMEOUT",
        "OLLAMA_MAX_LOADED_MODELS",
        "OLLAMA_MAX_QUEUE",
        "OLLAMA_NO_CLOUD",
        "OLLAMA_NUM_PARALLEL",
        "OLLAMA_ORIGINS",
        "OLLAMA_REMOTES",
        "OLLAMA_SCHED_SPREAD",
        "OLLAMA_VULKAN",
    ),
    Variable(),
)

CATALOGUE: Final[dict[str, Variable]] = {
    **_OLLAMA,
    "OLLAMA_DEBUG_LOG_REQUESTS": Variable(since=LLAMA_SERVER),
    "OLLAMA_GO_TEMPLATE": Variable(since=LLAMA_SERVER),
    "OLLAMA_IGPU_ENABLE": Variable(since=LLAMA_SERVER),
    "OLLAMA_MULTIUSER_CACHE": Variable(until=LLAMA_SERVER),
    "OLLAMA_NEW_ENGINE": Variable(until=LLAMA_SERVER),
}

_PASSED_ON: Final = ("CUDA_", "HIP_", "ROCR_", "GGML_", "GPU_DEVICE_", "HSA_", "NVIDIA_")
"""Prefixes that Ollama hands to its engines as they are."""

_PROXIES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TZ", "LANG", "LC_ALL"})


def objection(name: str, version: Version) -> str | None:
    """Why ``spec.tuning.extraEnv`` must not hold the variable with this version, or None."""
    if name in OWNED:
        return f"{name} belongs to the operator: {OWNED[name]}"
    if name in TUNED:
        return f"{name} has a field of its own: set spec.tuning.{TUNED[name]} instead"
    if name.startswith(_PASSED_ON) or name in _PROXIES:
        return None
    known = Variable(since=LLAMA_SERVER) if name.startswith("LLAMA_ARG_") else CATALOGUE.get(name)
    if known is None:
        return f"Ollama {version} knows no variable {name}: remove it or correct its name"
    return _too_old_or_new(name, known, version)


def _too_old_or_new(name: str, known: Variable, version: Version) -> str | None:
    if known.since is not None and version < known.since:
        return f"{name} is read from Ollama {known.since} on, not by {version}: remove it"
    if known.until is not None and version >= known.until:
        return f"{name} is not read from Ollama {known.until} on: remove it for {version}"
    return None
