"""What a model remembers: keys and values per layer, and recurrent state."""

from typing import Final

from ollama_fleet.sizing.ggmltypes import BY_NAME
from ollama_fleet.sizing.layers import Layer
from ollama_fleet.sizing.load import Engine, Load, batch, context, slots
from ollama_fleet.sizing.shape import ModelShape

_CELLS: Final = 256
"""llama.cpp rounds the cells of a sequence up to this."""
_OWN_BATCH: Final = 512
_OWN_MEMORY: Final = {"gptoss": 4096, "gpt-oss": 4096, "gemma4": 4096}
"""Tokens that Ollama's own engine keeps beyond the window, to reuse prompts (``NewSWAMemCache``)."""


def kv_bytes(model: ModelShape, load: Load, engine: Engine) -> int:
    """Bytes of keys and values over all layers and slots."""
    if model.encoder and engine is not Engine.LLAMA_RUNNER:
        return 0
    kind = BY_NAME[load.kv_type]
    total = 0
    for layer in model.layers:
        if layer.kv_heads and _keeps(layer, engine):
            row = kind.row_bytes(layer.kv_heads * layer.key_length) + kind.row_bytes(
                layer.kv_heads * layer.value_length
            )
            total += row * cells(model, layer, load, engine)
    return total


def _keeps(layer: Layer, engine: Engine) -> bool:
    """llama.cpp now keeps a cache for layers of drafts too; Ollama's copy of it did not (``n_layer_kv_from_start``)."""
    return not layer.borrows and (engine is Engine.LLAMA_SERVER or not layer.draft)


def state_bytes(model: ModelShape, load: Load) -> int:
    """Bytes of recurrent state over all layers and slots; always f32 and whatever the context."""
    return 4 * slots(model, load) * sum(layer.state for layer in model.layers)


def cells(model: ModelShape, layer: Layer, load: Load, engine: Engine) -> int:
    """Cells of one layer over all slots."""
    count = slots(model, load)
    full = sequence_cells(model, load, engine)
    if layer.window is None or engine is Engine.LLAMA_RUNNER:
        return count * full
    if engine is Engine.OLLAMA_ENGINE:
        # ``kvcache/causal.go`` of Ollama 0.24.
        kept = max(_OWN_MEMORY.get(model.architecture, layer.window), layer.window + (count > 1))
        return count * full if kept >= full else _padded(count * kept + _OWN_BATCH)
    return count * window_cells(model, layer.window, load, engine)


def window_cells(model: ModelShape, window: int, load: Load, engine: Engine) -> int:
    """Cells per slot of a layer with a sliding window (``llama-kv-cache-iswa.cpp``)."""
    full = sequence_cells(model, load, engine)
    return min(full, _padded(min(full, window + batch(model, load, engine))))


def sequence_cells(model: ModelShape, load: Load, engine: Engine) -> int:
    """Cells per slot of a layer that looks at everything."""
    return context(model, load) if engine is Engine.OLLAMA_ENGINE else _padded(context(model, load))


def _padded(count: int) -> int:
    return -(-count // _CELLS) * _CELLS
