"""What a model remembers, without laying out its graph: enough to see that a server is plainly full."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from ollama_fleet.sizing.cache import kv_bytes, state_bytes
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.load import Engine, Load
from ollama_fleet.sizing.shape import ModelShape


def kinds(shape: ModelShape) -> Iterator[tuple[Layer, int]]:
    """Layers with how many like it follow each other: a model has many, of few kinds."""
    return ((layer, sum(1 for _ in same)) for layer, same in groupby(shape.layers))


def remembered(shape: ModelShape, load: Load, engine: Engine, *, windowed_only: bool = False) -> int:
    """Bytes of keys, values and recurrent state over all layers and slots.

    With ``windowed_only`` keys and values of layers with a window, and recurrent state.
    """
    total = 0
    for layer, count in kinds(shape):
        one = replace(shape, layers=(layer,))
        if not windowed_only or layer.window is not None:
            total += count * kv_bytes(one, load, engine)
        total += count * state_bytes(one, load)
    return total


def least(shape: ModelShape, load: Load, engine: Engine) -> int:
    """Bytes that a load takes of GPUs at the very least: its weights and what it remembers."""
    return shape.weights.gpu + remembered(shape, load, engine)
