"""What each layer of a model remembers, by its architecture.

The rules are those of llama.cpp, build 10488: ``src/models/*.cpp`` (patterns of sliding windows, recurrent layers) and
``src/llama-hparams.cpp`` (recurrent state).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.sizing.metadata import Metadata


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer keeps per sequence."""

    kv_heads: int
    """0: no cache of keys and values."""
    key_length: int = 0
    value_length: int = 0
    """Elements per head; with multi-head latent attention the value is a view of the key and counts 0."""
    window: int | None = None
    """Tokens that the layer looks back; None: all."""
    state: int = 0
    """Elements of recurrent state, f32."""
    dense: bool = False
    """In a mixture of experts: a layer without experts."""
    borrows: bool = False
    """Attends over the cache of an earlier layer."""
    draft: bool = False
    """Predicts further tokens: idle unless a draft is asked for."""


_PERIODS: Final[Mapping[str, tuple[int, bool]]] = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone4": (4, False),
    "exaone-moe": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "gptoss": (2, False),
    "laguna": (4, True),
    "llama4": (4, False),
    "mellum": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
"""Sliding windows where the file names no pattern: of so many layers one looks at everything, the last or the first."""
_WINDOWS: Final = {"gemma2": 4096, "exaone4": 4096, "exaone-moe": 128, "llama4": 8192}
"""Windows that are not in every file."""
_GEMMA3N_OWN_LAYERS: Final = 20
"""Later layers of gemma3n use the cache of earlier ones."""
_INTERVAL_ARCHITECTURES: Final = frozenset({"qwen3next", "qwen35", "qwen35moe", "minimax-01"})
_BY_KV_HEADS: Final = frozenset({"jamba", "granitehybrid", "lfm2", "lfm2moe", "plamo2", "kimi-linear"})
_RECURRENT: Final = frozenset({"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"})


def head_length(metadata: Metadata, embedding: int, heads: int) -> int:
    """Elements of a query or key head."""
    return metadata.number("attention.key_length") or (embedding // heads if heads else 0)


def layers_of(metadata: Metadata, count: int, embedding: int, heads: int) -> tuple[Layer, ...]:
    """All layers in their order. Raises InvalidHeader."""
    architecture = metadata.architecture
    kv_heads = metadata.per_layer("attention.head_count_kv", count, default=heads)
    key = head_length(metadata, embedding, heads)
    value = metadata.number("attention.value_length") or (embedding // heads if heads else 0)
    if metadata.has("attention.key_length_mla"):
        # The values are a view of the compressed keys.
        value = 0
    windows, recurrent = _windows(metadata, count), _recurrent(metadata, count, kv_heads)
    state = _state(metadata, embedding)
    feed_forward = metadata.per_layer("feed_forward_length", count)
    own = _GEMMA3N_OWN_LAYERS if architecture == "gemma3n" else count - metadata.number("attention.shared_kv_layers")
    drafts = count - metadata.number("nextn_predict_layers")
    leading = metadata.number("leading_dense_block_count")
    found = []
    for index in range(count):
        works = not _only_feeds_forward(architecture, feed_forward[index])
        attends = works and kv_heads[index] > 0 and (not recurrent[index] or architecture == "falcon-h1")
        window = windows[index]
        short_key = metadata.number("attention.key_length_swa", key) if window is not None else key
        short_value = metadata.number("attention.value_length_swa", value) if window is not None else value
        found.append(
            Layer(
                kv_heads=kv_heads[index] if attends else 0,
                key_length=short_key if attends else 0,
                value_length=short_value if attends else 0,
                window=window if attends else None,
                state=state if works and recurrent[index] else 0,
                dense=index < leading,
                borrows=attends and index >= own,
                draft=index >= drafts,
            )
        )
    return tuple(found)


def _only_feeds_forward(architecture: str, feed_forward: int) -> bool:
    return architecture.startswith("nemotron_h") and feed_forward > 0


def _windows(metadata: Metadata, count: int) -> tuple[int | None, ...]:
    architecture = metadata.architecture
    window = metadata.number("attention.sliding_window", _WINDOWS.get(architecture, 0))
    if architecture == "llama4":
        window = metadata.number("attention.chunk_size", window) or window
    pattern = metadata.array("attention.sliding_window_pattern")
    known = _PERIODS.get(architecture)
    if not window or (pattern is None and known is None and not metadata.has("attention.sliding_window_pattern")):
        # phi3 and mistral name a window that llama.cpp does not use for a smaller cache.
        return (None,) * count
    if pattern is not None:
        return tuple(window if pattern[index % len(pattern)] else None for index in range(count))
    period, dense_first = known or (1, False)
    period = metadata.number("attention.sliding_window_pattern", period) or 1
    dense = 0 if dense_first else period - 1
    return tuple(None if index % period == dense else window for index in range(count))


def _recurrent(metadata: Metadata, count: int, kv_heads: tuple[int, ...]) -> tuple[bool, ...]:
    architecture = metadata.architecture
    if architecture in _RECURRENT or architecture == "falcon-h1":
        return (True,) * count
    named = metadata.array("attention.recurrent_layers")
    if named is not None and len(named) >= count:
        return tuple(bool(value) for value in named[:count])
    if architecture in _INTERVAL_ARCHITECTURES:
        interval = metadata.number("full_attention_interval", 4) or 4
        return tuple((index + 1) % interval != 0 for index in range(count))
    if architecture in _BY_KV_HEADS or architecture.startswith("nemotron_h"):
        return tuple(heads == 0 for heads in kv_heads)
    return (False,) * count


def _state(metadata: Metadata, embedding: int) -> int:
    """Elements of recurrent state of one layer and sequence: ``n_embd_r`` and ``n_embd_s``."""
    if metadata.has("wkv.head_size"):
        return metadata.number("token_shift_count", 2) * embedding + embedding * metadata.number("wkv.head_size")
    if metadata.has("shortconv.l_cache"):
        return embedding * max(0, metadata.number("shortconv.l_cache") - 1)
    kernel, inner = metadata.number("ssm.conv_kernel"), metadata.number("ssm.inner_size")
    size, groups = metadata.number("ssm.state_size"), metadata.number("ssm.group_count")
    return max(0, kernel - 1) * (inner + 2 * groups * size) + size * inner
