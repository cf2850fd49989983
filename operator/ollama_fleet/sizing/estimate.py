"""The GPU memory that a model needs: its parts, each with the formula it came from and how far it can be trusted."""

from dataclasses import dataclass, replace
from typing import Final, Literal

from ollama_fleet.sizing.blocks import Batch, Habits
from ollama_fleet.sizing.cache import kv_bytes, sequence_cells, state_bytes, window_cells
from ollama_fleet.sizing.context import USUAL, DriverContext
from ollama_fleet.sizing.ggmltypes import BY_NAME
from ollama_fleet.sizing.load import Engine, Load, batch, context, slots
from ollama_fleet.sizing.shape import ModelShape
from ollama_fleet.sizing.worst import compute_bytes

Confidence = Literal["measured", "exact", "modelled", "low"]

MIB: Final = 2**20
GIB: Final = 2**30
_PROJECTOR_GRAPH: Final = 1024 * MIB
"""Compute buffer of a vision tower; 0.6 to 1.1 GiB were logged."""
_OWN_STATE_FACTOR: Final = 12
"""Ollama's own engine keeps about so many copies of a recurrent state: 1.2 GiB where llama.cpp keeps 0.1."""
_SPLIT_COMPUTE: Final = 1.5
"""On several GPUs each has a compute buffer, with up to four copies of the inputs for pipelining."""
_UNEVEN: Final = 1.08
"""Layers are whole: one GPU gets more than its share."""
_KNOWN: Final = frozenset(
    {
        *("bert", "cohere2", "command-r", "deepseek2", "falcon-h1", "gemma2", "gemma3", "glm4", "glm4moe", "gpt-oss"),
        *("gptoss", "granite", "granitehybrid", "jamba", "lfm2", "llama", "llama4", "mamba", "mistral3", "nemotron_h"),
        *("nomic-bert", "phi3", "qwen2", "qwen25vl", "qwen2moe", "qwen3", "qwen35", "qwen35moe", "qwen3moe"),
        *("qwen3next", "qwen3vl", "qwen3vlmoe"),
    }
)
"""Architectures whose graph was held against llama.cpp, or is made of the same blocks."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the need."""

    name: str
    bytes: int
    formula: str
    confidence: Confidence


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one loaded model takes."""

    parts: tuple[Part, ...]
    """Over all GPUs; the driver's context is counted once per GPU."""
    per_gpu: tuple[int, ...]
    """Expected bytes on each GPU."""
    reserve_per_gpu: tuple[int, ...]
    """Upper bound on each GPU: what admission counts with."""
    predicted: int
    """What Ollama predicts before a load, which its scheduler goes by."""

    @property
    def total(self) -> int:
        """Expected bytes over all GPUs."""
        return sum(self.per_gpu)

    @property
    def reserve(self) -> int:
        """Upper bound over all GPUs."""
        return sum(self.reserve_per_gpu)

    @property
    def confidence(self) -> Confidence:
        """Of the least certain part."""
        order: tuple[Confidence, ...] = ("low", "modelled", "exact", "measured")
        return min((part.confidence for part in self.parts), key=order.index)

    def part(self, name: str) -> int:
        """Bytes of one part; 0 where there is none."""
        return sum(part.bytes for part in self.parts if part.name == name)


def estimate(
    model: ModelShape, load: Load, engine: Engine, *, gpus: int = 1, driver: DriverContext = USUAL
) -> Estimate:
    """What ``model`` takes when it is loaded with ``load`` on ``gpus`` GPUs, all its layers on them."""
    weights, kv, state = model.weights, kv_bytes(model, load, engine), state_bytes(model, load)
    if engine is Engine.OLLAMA_ENGINE:
        state *= _OWN_STATE_FACTOR
    expected, worst = _compute(model, load, engine, bounded=False), _compute(model, load, engine, bounded=True)
    own = driver.of(model)
    certain: Confidence = "modelled" if model.architecture in _KNOWN else "low"
    parts = [
        Part("weights", weights.gpu - weights.projector, "tensors of layers and output", "exact"),
        Part("kv", kv, "cells x heads x length x type", "exact"),
        Part("compute", expected * gpus, "allocator over the worst-case graph", certain),
        Part("context", own * gpus, "driver's context per process and GPU", "modelled"),
    ]
    if state:
        parts.insert(2, Part("state", state, "f32 state per slot", _state_confidence(engine)))
    vision = weights.projector + (_PROJECTOR_GRAPH if weights.projector else 0)
    if vision:
        parts.insert(1, Part("projector", vision, "tensors of the towers and their graph", "low"))
    spread = weights.layers + kv + state
    most = spread + weights.draft
    single = weights.output + vision
    return Estimate(
        parts=tuple(parts),
        per_gpu=_shares(spread, single, expected + own, gpus=gpus),
        reserve_per_gpu=_reserve(model, most, single, worst, gpus=gpus, driver=driver),
        predicted=prediction(model, load),
    )


def prediction(model: ModelShape, load: Load) -> int:
    """``PredictServerVRAM`` of Ollama from 0.30 (``llm/llama_server.go``): the file and an f16 cache of equal heads."""
    length = model.embedding_length // model.heads if model.heads else 0
    cells = context(model, load) * slots(model, load)
    return model.file_bytes + 2 * len(model.layers) * max(1, model.kv_heads) * length * cells * 2


def _compute(model: ModelShape, load: Load, engine: Engine, *, bounded: bool) -> int:
    size, count = batch(model, load, engine), slots(model, load)
    # Ollama's copy of llama.cpp asks for the logits of a whole batch, and llama-server does for models that answer with
    # vectors (``server_output_limits``); others for those of one token per slot.
    whole = engine is Engine.LLAMA_RUNNER or (engine is Engine.LLAMA_SERVER and model.embeds)
    few = not whole and not bounded
    # Where copies of the cache stand in no buffer, the driver holds them in a pool.
    habits = replace(_habits(engine), half_copies=True) if bounded else None
    # The library of matrix products takes scores as f16, from the same pool: they were seen there on a full batch.
    scores = 0 if load.flash_attention or not bounded else 2 * model.heads * size * sequence_cells(model, load, engine)
    return scores + graph_bytes(model, load, engine, outputs=count if few else max(size, count), habits=habits)


def graph_bytes(model: ModelShape, load: Load, engine: Engine, *, outputs: int, habits: Habits | None = None) -> int:
    """Bytes of the compute buffer when logits of ``outputs`` tokens are wanted."""
    size, count = batch(model, load, engine), slots(model, load)
    own = sequence_cells(model, load, engine)
    # One cache for all slots, until llama-server gave each its own.
    streams, cells = (count, own) if engine is Engine.LLAMA_SERVER else (1, own * count)
    window = next((layer.window for layer in model.layers if layer.window), None)
    shape = Batch(
        tokens=max(size, count),
        outputs=outputs,
        streams=streams,
        cells=cells,
        window_cells=window_cells(model, window, load, engine) if window and engine is Engine.LLAMA_SERVER else cells,
        flash=load.flash_attention,
        kind=BY_NAME[load.kv_type],
    )
    return compute_bytes(model, shape, habits or _habits(engine))


def _habits(engine: Engine) -> Habits:
    newer = engine is Engine.LLAMA_SERVER
    return Habits(half_copies=newer, rotated=newer)


def _state_confidence(engine: Engine) -> Confidence:
    return "low" if engine is Engine.OLLAMA_ENGINE else "exact"


def _shares(spread: int, single: int, each: int, *, gpus: int) -> tuple[int, ...]:
    """Layers are divided, the output and the towers are on one GPU, compute buffers and contexts on every one."""
    share = spread // gpus
    return tuple(share + each + (single if gpu == gpus - 1 else 0) for gpu in range(gpus))


def _reserve(
    model: ModelShape, spread: int, single: int, worst: int, *, gpus: int, driver: DriverContext
) -> tuple[int, ...]:
    """Never too small: host copies counted in, a generous compute buffer, and the unevenness of whole layers."""
    each = int(worst * (_SPLIT_COMPUTE if gpus > 1 else 1.0)) + driver.most
    if model.architecture not in _KNOWN:
        each += worst // 4
    found = _shares(int(spread * (_UNEVEN if gpus > 1 else 1.0)), single, each, gpus=gpus)
    return tuple(value + value // 100 for value in found)
