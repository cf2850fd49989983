"""For a model without room: the smallest change of the wish with which everything would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ollama_fleet.planning.fitting import Fitting, Wish, fit
from ollama_fleet.planning.packing import LeftOut
from ollama_fleet.planning.request import PreviousGroup
from ollama_fleet.planning.scheduler import ServerShape
from ollama_fleet.sizing.estimate import GIB, MIB

_SMALLER_CACHES = ("q8_0", "q4_0")
_LEAST_CONTEXT = 1024
_MOST_GPUS = 8


def explain(left: LeftOut, wish: Wish, server: ServerShape, previous: Sequence[PreviousGroup], *, servers: int) -> str:
    """One sentence with the numbers, and one with the nearest change that helps, if any does."""
    name = left.item.name
    needed, free = amount(left.needed), amount(max(0, left.free))
    if left.evicts:
        what = f"{name} fits, but Ollama predicts {needed} where {free} count as free and would evict another model"
    else:
        what = f"{name} needs {needed} of a GPU and the most that is free for it is {free}"
    remedy = next(_remedies(name, wish, server, previous, servers=servers), None)
    return f"{what}: {remedy}" if remedy else f"{what}: choose a smaller quantisation or larger GPUs, or remove a model"


def _remedies(
    name: str, wish: Wish, server: ServerShape, previous: Sequence[PreviousGroup], *, servers: int
) -> Iterator[str]:
    """Changes from small to large; only those that let everything fit."""

    def works(changed: Wish, shape: ServerShape = server, count: int = servers) -> Fitting | None:
        found = fit(changed, shape, previous, servers=count)
        return None if found.left_out else found

    if wish.parallel is not None and works(replace(wish, parallel=None)):
        yield "remove spec.tuning.numParallel, or lower it"
    for kind in _SMALLER_CACHES if wish.options.flash_attention else ():
        if wish.options.kv_type == "f16" and works(replace(wish, options=replace(wish.options, kv_type=kind))):
            yield f"spec.tuning.kvCacheType {kind} would make it fit"
    for context in _contexts(name, wish):
        if works(_with_context(wish, name, context)):
            yield f"contextLength {context} for {name} would make it fit"
    if works(wish, server, servers + 1):
        yield "one more server with such GPUs would take it"
    gpus = 2 * server.gpus
    while gpus <= _MOST_GPUS:
        options = replace(wish.options, gpus=gpus)
        if works(replace(wish, options=options), replace(server, gpus=gpus), max(1, servers * server.gpus // gpus)):
            yield f"hardware.gpu.count {gpus} would make it fit"
        gpus *= 2


def _contexts(name: str, wish: Wish) -> Iterator[int]:
    context = next((model.context_length or 0 for model in wish.models if model.name == name), 0) // 2
    while context >= _LEAST_CONTEXT:
        yield context
        context //= 2


def _with_context(wish: Wish, name: str, context: int) -> Wish:
    changed = (m.model_copy(update={"context_length": context}) if m.name == name else m for m in wish.models)
    return replace(wish, models=tuple(changed))


def amount(count: int) -> str:
    """Bytes for people, in the units of ``24Gi``."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
