"""How much smaller a model's file would have to be, and which quantisation comes to that."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.shape import ModelShape

_BITS: Final = (
    ("q8_0", 8.50),
    ("q6_K", 6.56),
    ("q5_K_M", 5.70),
    ("q4_K_M", 4.89),
    ("q3_K_M", 4.00),
    ("q2_K", 3.16),
)
"""Bits per weight of an 8B model (``tools/quantize/README.md`` of llama.cpp, build 10488); larger ones take less."""
_STEPS: Final = 12
"""Of the search for the largest file: to a four-thousandth of it."""


@dataclass(frozen=True, slots=True)
class SmallerFile:
    """The file that would fit."""

    most: int
    """Bytes that it may have."""
    kind: str
    """The finest quantisation that comes to less."""
    size: int
    """About what that has, in bytes."""


def smaller_file(shape: ModelShape, fits: Callable[[ModelShape], bool]) -> SmallerFile | None:
    """The largest file with which ``fits`` holds; None where no quantisation comes to that or weights are unknown."""
    count = parameters(shape)
    if not count or not fits(scaled(shape, _size(_BITS[-1][1], count) / shape.file_bytes)):
        return None
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(scaled(shape, middle)) else (low, middle)
    most = int(low * shape.file_bytes)
    known = (SmallerFile(most, kind, _size(bits, count)) for kind, bits in _BITS)
    return next((file for file in known if file.size <= most), None)


def scaled(shape: ModelShape, ratio: float) -> ModelShape:
    """The model in a file of another size: all its tensors shrink alike."""
    weights = shape.weights
    smaller = replace(
        weights,
        layers=int(weights.layers * ratio),
        output=int(weights.output * ratio),
        host=int(weights.host * ratio),
    )
    return replace(shape, weights=smaller, file_bytes=int(shape.file_bytes * ratio))


def parameters(shape: ModelShape) -> int:
    """Weights of the model by its dimensions; 0 for architectures whose layers have others than these."""
    if shape.recurrent or shape.latent is not None or shape.encoder:
        return 0
    embedding, weights = shape.embedding_length, shape.weights
    tables = shape.vocabulary * embedding
    # A tied output is a copy in memory, not in the file.
    untied = weights.layers + weights.output + weights.host <= shape.file_bytes
    return sum(_layers(shape)) + tables * (2 if untied else 1)


def _layers(shape: ModelShape) -> Iterator[int]:
    known: dict[Layer, int] = {}
    for layer in shape.layers:
        if layer not in known:
            known[layer] = _layer(shape, layer)
        yield known[layer]


def _layer(shape: ModelShape, layer: Layer) -> int:
    embedding, keys = shape.embedding_length, layer.key_length or shape.head_length
    values = layer.value_length or keys
    attention = embedding * (shape.heads * (keys + values) + layer.kv_heads * (keys + values))
    matrices = 2 if shape.gate == "none" else 3
    if not shape.experts or layer.dense:
        return attention + matrices * embedding * shape.feed_forward_length
    width = shape.experts * shape.expert_length + shape.shared_expert_length
    return attention + matrices * embedding * width + embedding * shape.experts


def _size(bits: float, count: int) -> int:
    return int(bits * count / 8)
