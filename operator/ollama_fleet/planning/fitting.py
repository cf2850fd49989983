"""Groups and slots that fit the GPUs: which models share a server, and how many requests each serves at once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ollama_fleet.api.group import GroupModel
from ollama_fleet.planning.footprints import Options, Shapes, footprint
from ollama_fleet.planning.grouping import assign, clash
from ollama_fleet.planning.packing import Item, LeftOut, Packing, fits, pack
from ollama_fleet.planning.request import PreviousGroup
from ollama_fleet.planning.scheduler import ServerShape

_MOVE_BUDGET = 1
"""Running models that a change may move to another server."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be fitted."""

    models: tuple[GroupModel, ...]
    shapes: Shapes
    options: Options
    parallel: int | None = None
    """An explicit number of slots: it is kept, whether it fits or not."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One group."""

    models: tuple[GroupModel, ...]
    parallel: int
    key: str
    """Of everything that decided it: while the key stays, the group stays, whatever happens to the nodes."""
    planned: Mapping[str, int] = field(default_factory=dict)
    """Upper bound of GPU memory by model, in bytes."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """All groups, and the models for which there is no room."""

    groups: Mapping[str, Fitted]
    left_out: tuple[LeftOut, ...] = ()


def unsized(wish: Wish, previous: Sequence[PreviousGroup]) -> Fitting:
    """Groups where nothing says how large a GPU is: only models that would evict each other are kept apart."""
    groups = assign(wish.models, previous)
    return Fitting(
        {
            name: Fitted(members, wish.parallel or _widest(members), _key(wish, members))
            for name, members in groups.items()
        }
    )


def fit(wish: Wish, server: ServerShape, previous: Sequence[PreviousGroup], *, servers: int) -> Fitting:
    """As many slots as are wished for if all models fit with them, else as many as let most models fit."""
    home = {model.name: group.name for group in previous for model in group.config.models}
    widest = wish.parallel or _widest(wish.models)
    least = widest if wish.parallel else 1
    best: tuple[Packing, int] | None = None
    for parallel in range(widest, least - 1, -1):
        found = pack(_items(wish, home, parallel), server, servers=servers, move_budget=_MOVE_BUDGET)
        if best is None or len(found.left_out) < len(best[0].left_out):
            best = (found, parallel)
        if not found.left_out:
            break
    assert best is not None
    return Fitting(
        {name: _fitted(wish, server, items, best[1], widest) for name, items in best[0].groups.items()},
        best[0].left_out,
    )


def unchanged(wish: Wish, previous: Sequence[PreviousGroup]) -> Fitting | None:
    """The groups that run, if they are what this wish led to before: nodes that come and go change no running plan."""
    if sorted(m.name for g in previous for m in g.config.models) != sorted(m.name for m in wish.models):
        return None
    by_name = {model.name: model for model in wish.models}
    groups = {}
    for group in previous:
        members = tuple(by_name[model.name] for model in group.config.models)
        if not group.config.sized_for or group.config.sized_for != _key(wish, members):
            return None
        planned = _planned(wish, members, group.config.num_parallel)
        groups[group.name] = Fitted(members, group.config.num_parallel, group.config.sized_for, planned)
    return Fitting(groups) if groups else None


def _fitted(wish: Wish, server: ServerShape, items: Sequence[Item], parallel: int, widest: int) -> Fitted:
    """A group with the most slots, up to its own widest wish, that its own models allow."""
    by_name = {model.name: model for model in wish.models}
    members = tuple(sorted((by_name[item.name] for item in items), key=lambda model: (-model.priority, model.name)))
    chosen = parallel
    for more in range(min(widest, wish.parallel or _widest(members)), parallel, -1):
        if fits(server, _items(wish, {}, more, only=members)).misfit is None:
            chosen = more
            break
    chosen = min(chosen, wish.parallel or _widest(members))
    return Fitted(members, chosen, _key(wish, members), _planned(wish, members, chosen))


def _items(
    wish: Wish, home: Mapping[str, str], parallel: int, *, only: Sequence[GroupModel] | None = None
) -> list[Item]:
    chosen = wish.models if only is None else only
    return [
        Item(
            footprint=footprint(model, wish.shapes.get(model.name), wish.options, parallel=parallel),
            pinned=model.residency == "Pinned",
            priority=model.priority,
            clashes=frozenset(other.name for other in chosen if other is not model and clash(model, other)),
            group=home.get(model.name),
        )
        for model in chosen
    ]


def _planned(wish: Wish, members: Sequence[GroupModel], parallel: int) -> dict[str, int]:
    shapes = wish.shapes
    return {
        model.name: footprint(model, shapes[model.name], wish.options, parallel=parallel).whole
        for model in members
        if model.name in shapes
    }


def _widest(models: Sequence[GroupModel]) -> int:
    return max((model.parallel for model in models), default=1)


def _key(wish: Wish, members: Sequence[GroupModel]) -> str:
    options = wish.options
    parts = {
        "models": sorted((m.name, m.manifest_digest, m.context_length, m.parallel, m.residency) for m in members),
        "parallel": wish.parallel,
        "options": (options.version.generation.value, options.gpus, options.kv_type, options.flash_attention),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
