"""Variables of the Ollama container that ``spec.tuning.extraEnv`` must not hold."""

from typing import Final

OWNED: Final[dict[str, str]] = {
    "HOME": "the operator gives every server a home of its own",
    "OLLAMA_HOST": "Ollama listens on loopback behind the sidecar",
    "OLLAMA_MODELS": "the store is laid out by the puller; use spec.storage",
    "OLLAMA_NOPRUNE": "a server must not prune a store that it does not own",
    "NVIDIA_VISIBLE_DEVICES": "the device plugin chooses the GPUs; use spec.hardware",
}
"""Variables that are never the user's, with the reason."""

TUNED: Final[dict[str, str]] = {
    "OLLAMA_CONTEXT_LENGTH": "contextLength",
    "OLLAMA_FLASH_ATTENTION": "flashAttention",
    "OLLAMA_GPU_OVERHEAD": "gpuOverhead",
    "LLAMA_ARG_FIT_TARGET": "gpuOverhead",
    "OLLAMA_KEEP_ALIVE": "keepAlive",
    "OLLAMA_KV_CACHE_TYPE": "kvCacheType",
    "OLLAMA_LOAD_TIMEOUT": "loadTimeout",
    "OLLAMA_MAX_LOADED_MODELS": "maxLoadedModels",
    "OLLAMA_MAX_QUEUE": "maxQueue",
    "OLLAMA_NUM_PARALLEL": "numParallel",
    "OLLAMA_SCHED_SPREAD": "schedSpread",
}
"""Variables with a field of their own below ``spec.tuning``."""
