"""Which models share a server.

Ollama runs one runner per weights file: two names over the same weights with different load options would evict
each other for ever, so they never share a group. Everything else shares the first group.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ollama_fleet.api.group import GroupModel
from ollama_fleet.planning.request import PreviousGroup

_LOAD_PARAMETERS: Final = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}
)
"""Parameters whose change makes Ollama reload a model (``needsReload`` in ``server/sched.go``)."""


def assign(models: Iterable[GroupModel], previous: Sequence[PreviousGroup]) -> dict[str, tuple[GroupModel, ...]]:
    """Models by group name. A model stays in the group it was in; nothing else moves for a newcomer."""
    before = {model.name: group.name for group in previous for model in group.config.models}
    groups: dict[str, list[GroupModel]] = {}
    # Those with a place first: a newcomer must not take it.
    for model in sorted(models, key=lambda model: (model.name not in before, -model.priority, model.name)):
        name = _place(model, groups, before.get(model.name))
        groups.setdefault(name, []).append(model)
    return {name: _ordered(groups[name]) for name in sorted(groups, key=_number)}


def _place(model: GroupModel, groups: Mapping[str, Sequence[GroupModel]], before: str | None) -> str:
    candidates = ([before] if before else []) + sorted(groups, key=_number)
    for name in candidates:
        if not any(clash(model, other) for other in groups.get(name, ())):
            return name
    return next(f"g{number}" for number in range(len(groups) + 1) if f"g{number}" not in groups)


def clash(one: GroupModel, other: GroupModel) -> bool:
    """Whether two models would evict each other from one server for ever."""
    return same_weights(one, other) and _load_options(one) != _load_options(other)


def same_weights(one: GroupModel, other: GroupModel) -> bool:
    """Whether Ollama runs both in one process: manifests may differ in template and system prompt only."""
    return one.manifest_digest == other.manifest_digest or (one.weights is not None and one.weights == other.weights)


def _load_options(model: GroupModel) -> tuple[object, ...]:
    parameters = model.modelfile.parameters
    chosen = sorted((key, str(parameters[key])) for key in _LOAD_PARAMETERS & parameters.keys())
    return (model.context_length, model.modelfile.adapter, tuple(chosen))


def _ordered(models: Iterable[GroupModel]) -> tuple[GroupModel, ...]:
    return tuple(sorted(models, key=lambda model: (-model.priority, model.name)))


def _number(group: str) -> int:
    return int(group.removeprefix("g"))
