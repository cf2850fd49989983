"""What a server with GPUs takes of host memory, which Ollama shows nowhere.

Token embeddings stay on the host. llama-server, from 0.30 on, also keeps prompts of conversations without a slot
(``LLAMA_ARG_CACHE_RAM``, per model) and, for models that cannot go back in their memory (sliding windows, recurrent
layers), states to go back to (``LLAMA_ARG_CTX_CHECKPOINTS``, per slot): ``tools/server/server-context.cpp``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_fleet.api.group import GroupModel
from ollama_fleet.planning.footprints import Mode, Shapes
from ollama_fleet.planning.profiles import Defaults
from ollama_fleet.planning.remembered import kinds, remembered
from ollama_fleet.planning.versions import Generation
from ollama_fleet.sizing.estimate import GIB, MIB
from ollama_fleet.sizing.load import Engine, Load, context
from ollama_fleet.sizing.shape import ModelShape

_SERVER: Final = 256 * MIB
"""Ollama itself."""
_PROCESS: Final = 768 * MIB
"""Of each model's process: the GPU's driver and libraries, input and output buffers."""
_CHECKPOINT_STEP: Final = 8192
_CHECKPOINTS_BESIDE: Final = 2
"""Two more at the end of a prompt."""
_MOST_CHECKPOINTS: Final = 32
_CPU_CACHE: Final = 512
"""MiB; a server without GPU has its models in the same memory."""
_CPU_SHARE: Final = 8


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Bytes to request and to be limited to; both 0 where the spec or nobody says."""

    request: int = 0
    limit: int = 0
    reason: str = ""


def prompt_cache(defaults: Defaults, models: Sequence[GroupModel], shapes: Shapes, mode: Mode) -> int:
    """MiB per model: room for as many conversations as there are slots, up to what the profile allows."""
    wanted = max((_slot_bytes(m, shapes[m.name], mode) * m.parallel for m in models if m.name in shapes), default=0)
    known = all(model.name in shapes for model in models)
    return min(defaults.prompt_cache, -(-wanted // MIB)) if known else defaults.prompt_cache


def prompt_cache_on_cpu(defaults: Defaults, memory: int) -> int:
    """MiB per model: a small part of the server's memory."""
    return min(defaults.prompt_cache, _CPU_CACHE, memory // MIB // _CPU_SHARE)


def checkpoints(models: Sequence[GroupModel], shapes: Shapes) -> int | None:
    """How many states a slot can have use for; None where no model makes any."""
    counts = [
        min(_MOST_CHECKPOINTS, -(-_tokens(model, shapes[model.name]) // _CHECKPOINT_STEP) + _CHECKPOINTS_BESIDE)
        for model in models
        if model.name in shapes and _goes_back_by_state(shapes[model.name])
    ]
    return max(counts, default=None)


def need(models: Sequence[GroupModel], shapes: Shapes, mode: Mode, *, cache: int, generation: Generation) -> HostMemory:
    """All models loaded, their caches full. ``cache`` is the prompt cache of each in MiB."""
    counted = checkpoints(models, shapes) or 0
    embeddings = sum(shapes[model.name].weights.host for model in models if model.name in shapes)
    prompts = states = 0
    if generation is Generation.LLAMA_SERVER:
        prompts = cache * MIB * len(models)
        states = sum(
            model.parallel * counted * _state_bytes(model, shapes[model.name], mode)
            for model in models
            if model.name in shapes and _goes_back_by_state(shapes[model.name])
        )
    request = _rounded(_SERVER + _PROCESS * len(models) + embeddings + prompts + states)
    # Pages of model files count for the container until they are needed elsewhere. Ollama up to 0.24 takes them for
    # used, and refuses to load what then seems not to fit; newer ones stop mapping files.
    files = sum(model.size for model in models)
    processes = f"{_amount(_PROCESS)} for the process of each model ({len(models)})"
    parts = [processes]
    parts += [f"{_amount(embeddings)} of token embeddings"] if embeddings else []
    parts += [f"{_amount(prompts)} of prompts"] if prompts else []
    parts += [f"{_amount(states)} of states to go back to"] if states else []
    reason = f"{', '.join(parts)}; the limit leaves room for the pages of the models' files"
    return HostMemory(request, _rounded(request + files), reason)


def _slot_bytes(model: GroupModel, shape: ModelShape, mode: Mode) -> int:
    return remembered(shape, _load(model, mode), Engine.LLAMA_SERVER)


def _state_bytes(model: GroupModel, shape: ModelShape, mode: Mode) -> int:
    """One state of one slot: what its windows hold, and its recurrent layers."""
    return remembered(shape, _load(model, mode), Engine.LLAMA_SERVER, windowed_only=True)


def _load(model: GroupModel, mode: Mode) -> Load:
    return Load(context=model.context_length or 1, kv_type=mode.kv_type)


def _tokens(model: GroupModel, shape: ModelShape) -> int:
    return context(shape, _load(model, Mode(1)))


def _goes_back_by_state(shape: ModelShape) -> bool:
    return not shape.encoder and any(layer.window is not None or layer.state for layer, _ in kinds(shape))


def _rounded(size: int) -> int:
    """Up to a quarter of a GiB: a model more or less need not show in every figure."""
    return -(-size // (GIB // 4)) * (GIB // 4)


def _amount(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size // MIB} MiB"
