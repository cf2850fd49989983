"""What a model can be loaded with: flash attention, quantised caches, several slots. By generation of Ollama.

From ``llm/server.go`` and ``fs/ggml/ggml.go`` of Ollama 0.24.0, ``server/sched.go`` of 0.32.3, and llama.cpp:
``src/llama-context.cpp`` (``llama_init_from_model``) and ``ggml/src/ggml-cuda/fattn.cu``.
"""

from typing import Final

from ollama_fleet.planning.remembered import kinds
from ollama_fleet.planning.versions import Generation
from ollama_fleet.sizing.ggmltypes import BY_NAME
from ollama_fleet.sizing.load import Load, slots
from ollama_fleet.sizing.shape import ModelShape

PLAIN_CACHES: Final = frozenset({"f32", "f16", "bf16"})
_OLDER_CACHES: Final = frozenset({"f16", "q8_0", "q4_0"})
"""Up to 0.24 (``SupportsKVCacheType``); others are ignored with a warning in its log."""
_CUDA_CACHES: Final = frozenset({"f32", "f16", "bf16", "q8_0", "q4_0"})
"""With a kernel in CUDA builds that do not set ``GGML_CUDA_FA_ALL_QUANTS``, as Ollama's do not."""
_CUDA_HEADS: Final = {(same, same): 1 for same in (40, 64, 72, 80, 96, 112, 128, 256)} | {
    (192, 128): 8,
    (320, 256): 32,
    (512, 512): 2,
}
"""Elements of a head's key and value for which there is a kernel, and how many queries must share one."""
_WITHOUT: Final = {
    Generation.IN_PROCESS: frozenset({"gemma2", "grok"}),
    Generation.LLAMA_SERVER: frozenset({"grok"}),
}
"""Architectures that are run without flash attention whatever is asked for."""


def cache_known(kv_type: str, generation: Generation) -> bool:
    """Whether a generation reads the type of cache at all."""
    return generation is Generation.LLAMA_SERVER or kv_type in _OLDER_CACHES


def cache_on_cuda(kv_type: str) -> bool:
    """Whether attention over such a cache runs on the GPU; else it runs on the CPU, slowly and in silence."""
    return kv_type in _CUDA_CACHES


def flash_attention(shape: ModelShape, generation: Generation) -> bool:
    """Whether the model is run with flash attention when that is on."""
    if shape.architecture in _WITHOUT[generation]:
        return False
    if generation is Generation.IN_PROCESS:
        heads = [(layer.key_length, layer.value_length) for layer, _ in kinds(shape) if layer.kv_heads]
        return not shape.encoder and shape.latent is None and bool(heads) and all(key == value for key, value in heads)
    return True


def flash_kernel(shape: ModelShape) -> bool:
    """Whether CUDA has a kernel for the heads of the model, on any card that llama.cpp calls able."""
    if shape.latent is not None:
        return True
    heads = ((layer.key_length, layer.value_length, layer.kv_heads) for layer, _ in kinds(shape) if layer.kv_heads)
    shared = ((_CUDA_HEADS.get((key, value)), shape.heads // count) for key, value, count in heads)
    return all(needed is not None and sharing >= needed for needed, sharing in shared)


def indivisible(shape: ModelShape, kv_type: str) -> int | None:
    """The length of a head that blocks of the type do not divide: from 0.30 on such a load fails. None when all are."""
    block = BY_NAME[kv_type].block
    attending = (layer for layer, _ in kinds(shape) if layer.kv_heads)
    lengths = (length for layer in attending for length in (layer.key_length, layer.value_length))
    return next((length for length in lengths if length % block), None)


def quantises(shape: ModelShape, kv_type: str, generation: Generation) -> bool:
    """Whether the model's cache can be of a quantised type. One that has none does not object."""
    if generation is Generation.IN_PROCESS:
        return True
    return shape.encoder or (flash_attention(shape, generation) and indivisible(shape, kv_type) is None)


def effective_slots(shape: ModelShape | None, wished: int) -> int:
    """Slots that the model really gets of those that it asks for: models for embeddings and some families get one."""
    return wished if shape is None else slots(shape, Load(context=1, parallel=wished))
