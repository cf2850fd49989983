"""Headers of common models, for planning without a registry.

Dimensions from the models' published configurations; sizes are those of the files in Ollama's library, rounded to
10 MiB. A registry's own answer is always preferred, and the table says when this one was used.
"""

from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.ggmltypes import BY_NAME
from ollama_fleet.sizing.metadata import Metadata
from ollama_fleet.sizing.shape import ModelShape, shape_from
from ollama_fleet.sizing.weights import Weights

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class _Entry:
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    file_mib: int
    embeddings: str = "q4_k"
    """Data type of the token embeddings."""
    tied: bool = False
    head: int = 128
    context: int = 131072
    window: int = 0
    experts: tuple[int, int, int] | None = None
    """Count, used per token, width."""


_ENTRIES: Final = {
    "llama3:8b": _Entry("llama", 32, 4096, 32, 8, 14336, 128256, 4450, "q4_0", context=8192),
    "llama3:8b-instruct-q4_k_m": _Entry("llama", 32, 4096, 32, 8, 14336, 128256, 4690, context=8192),
    "llama3:8b-instruct-q8_0": _Entry("llama", 32, 4096, 32, 8, 14336, 128256, 8140, "q8_0", context=8192),
    "llama3:70b-instruct-q4_k_m": _Entry("llama", 80, 8192, 64, 8, 28672, 128256, 40550, context=8192),
    "llama3.1:8b": _Entry("llama", 32, 4096, 32, 8, 14336, 128256, 4690),
    "llama3.1:70b": _Entry("llama", 80, 8192, 64, 8, 28672, 128256, 40550),
    "llama3.2:1b": _Entry("llama", 16, 2048, 32, 8, 8192, 128256, 1260, "q8_0", tied=True, head=64),
    "llama3.2:3b": _Entry("llama", 28, 3072, 24, 8, 8192, 128256, 1930, "q6_k", tied=True),
    "mistral:7b": _Entry("llama", 32, 4096, 32, 8, 14336, 32768, 4170, context=32768),
    "phi4:14b": _Entry("phi3", 40, 5120, 40, 10, 17920, 100352, 8630, context=16384),
    "qwen2.5:7b": _Entry("qwen2", 28, 3584, 28, 4, 18944, 152064, 4470, context=32768),
    "qwen2.5:14b": _Entry("qwen2", 48, 5120, 40, 8, 13824, 152064, 8570, context=32768),
    "qwen2.5:32b": _Entry("qwen2", 64, 5120, 40, 8, 27648, 152064, 18930, context=32768),
    "qwen3:8b": _Entry("qwen3", 36, 4096, 32, 8, 12288, 151936, 4980, context=40960),
    "qwen3:30b": _Entry("qwen3moe", 48, 2048, 32, 4, 6144, 151936, 17700, context=262144, experts=(128, 8, 768)),
    "gemma3:12b": _Entry("gemma3", 48, 3840, 16, 8, 15360, 262208, 7770, "q6_k", tied=True, head=256, window=1024),
    "gpt-oss:20b": _Entry(
        "gpt-oss", 24, 2880, 64, 8, 2880, 201088, 13140, "bf16", head=64, window=128, experts=(32, 4, 2880)
    ),
}
_ALIASES: Final = {name.partition(":")[0]: name for name in _ENTRIES}
"""Without a tag: any entry of the name."""


def look_up(name: str) -> ModelShape | None:
    """The shape of a model of Ollama's library, or None."""
    key = name.lower().removesuffix(":latest")
    entry = _ENTRIES.get(key) or _ENTRIES.get(_ALIASES.get(key, ""))
    return None if entry is None else _shape(entry)


def known() -> list[str]:
    """All names, for messages."""
    return sorted(_ENTRIES)


def _shape(entry: _Entry) -> ModelShape:
    values: dict[str, int] = {
        "block_count": entry.layers,
        "embedding_length": entry.width,
        "attention.head_count": entry.heads,
        "attention.head_count_kv": entry.kv_heads,
        "attention.key_length": entry.head,
        "attention.value_length": entry.head,
        "feed_forward_length": entry.inner,
        "vocab_size": entry.vocabulary,
        "context_length": entry.context,
        "attention.sliding_window": entry.window,
    }
    if entry.experts:
        values |= dict(
            zip(("expert_count", "expert_used_count", "expert_feed_forward_length"), entry.experts, strict=True)
        )
    size = entry.file_mib * _MIB
    embeddings = BY_NAME[entry.embeddings].row_bytes(entry.width) * entry.vocabulary
    rest = size - embeddings * (1 if entry.tied else 2)
    metadata = {f"{entry.architecture}.{key}": value for key, value in values.items()}
    return shape_from(
        Metadata({"general.architecture": entry.architecture, **metadata}),
        weights=Weights(layers=rest, output=embeddings, host=embeddings),
        file_bytes=size,
    )
