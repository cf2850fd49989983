"""What Ollama's own scheduler makes of the models of one server, loaded in a given order.

Both generations prefer one GPU for a model and take the freest; what does not fit one is split over all. From 0.30 on
the choice rests on Ollama's prediction, which counts the KV cache as f16 whatever its type: a model whose prediction
exceeds 80 % of what is free evicts others although it would fit (``server/sched.go``, ``PredictServerVRAM``). Then
llama.cpp measures, and moves layers to the CPU when less than its margin would stay free on a GPU.

With ``OLLAMA_SCHED_SPREAD`` every model goes to all GPUs. Up to 0.24 a model that one GPU cannot hold goes to as few as
can, not to all: the sum is the same, and here it counts on all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_fleet.planning.versions import Generation

_TRUSTED_SHARE: Final = 0.8
"""Of the free memory, beside other models (``server/sched.go``, from 0.30)."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one model takes of GPU memory."""

    name: str
    whole: int
    """On the GPU that holds all of it; its share of the driver's context included."""
    split: int
    """On each GPU when it is spread over all GPUs of the server."""
    predicted: int
    """What Ollama predicts before the load, all GPUs together."""
    priority: int = 0
    """Who is loaded first."""


@dataclass(frozen=True, slots=True)
class ServerShape:
    """The GPUs of one server."""

    gpus: int
    usable: int
    """Bytes on each GPU before any model is loaded."""
    margin: int
    """Bytes that must stay free on each GPU: below that, layers move to the CPU."""
    generation: Generation
    spread: bool = False
    """Every model goes to all GPUs."""

    @property
    def room(self) -> int:
        """Bytes that models may take of each GPU."""
        return self.usable - self.margin


@dataclass(frozen=True, slots=True)
class Seat:
    """Where one model went."""

    model: Footprint
    gpus: tuple[int, ...]
    """One index, or all of them."""

    @property
    def bytes_each(self) -> int:
        """Bytes on each of its GPUs."""
        return self.model.whole if len(self.gpus) == 1 else self.model.split


@dataclass(frozen=True, slots=True)
class Misfit:
    """The first model for which there is no room."""

    model: Footprint
    needed: int
    """Bytes that it wants on a GPU."""
    free: int
    """Bytes that the freest GPU has for it."""
    evicts: bool = False
    """It would fit, but Ollama predicts that it does not and evicts another model first."""


@dataclass(frozen=True, slots=True)
class Seating:
    """The outcome."""

    seats: tuple[Seat, ...]
    used: tuple[int, ...]
    """Bytes by GPU."""
    misfit: Misfit | None = None


def seat(server: ServerShape, models: Sequence[Footprint]) -> Seating:
    """Load the models one after the other; stops at the first that does not fit."""
    used = [0] * server.gpus
    seats: list[Seat] = []
    for model in models:
        chosen = _choose(server, used, model, alone=not seats)
        if isinstance(chosen, Misfit):
            return Seating(tuple(seats), tuple(used), chosen)
        seats.append(chosen)
        for gpu in chosen.gpus:
            used[gpu] += chosen.bytes_each
    return Seating(tuple(seats), tuple(used))


def _choose(server: ServerShape, used: Sequence[int], model: Footprint, *, alone: bool) -> Seat | Misfit:
    free = [server.usable - taken for taken in used]
    freest = max(range(server.gpus), key=lambda gpu: (free[gpu], -gpu))
    everywhere = tuple(range(server.gpus))
    room = free[freest] - server.margin
    if server.generation is Generation.LLAMA_SERVER:
        one_gpu = not server.spread and model.predicted <= _TRUSTED_SHARE * free[freest]
        evicts = not one_gpu and not alone and model.predicted > _TRUSTED_SHARE * sum(free)
        if evicts and model.whole <= room:
            return Misfit(model, model.predicted, int(_TRUSTED_SHARE * sum(free)), evicts=True)
        if evicts:
            return Misfit(model, model.whole, room)
    else:
        one_gpu = not server.spread and model.whole <= room
    if one_gpu or server.gpus == 1:
        fits = model.whole <= room
        return Seat(model, (freest,)) if fits else Misfit(model, model.whole, room)
    least = min(free) - server.margin
    return Seat(model, everywhere) if model.split <= least else Misfit(model, model.split, least)
