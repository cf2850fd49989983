"""Why a group runs in its mode, in words with numbers."""

from collections.abc import Iterable, Mapping
from typing import Final

from ollama_fleet.planning.abilities import PLAIN_CACHES
from ollama_fleet.planning.fitting import Fitted
from ollama_fleet.planning.profiles import MOST_SLOTS
from ollama_fleet.planning.rooms import Wish

_SPREAD: Final = "the models fit over all GPUs only"
_WHOLE: Final = "a model that one GPU holds is fastest on one"


def reasons(wish: Wish, fitted: Fitted, *, sized: bool) -> Mapping[str, str]:
    """By variable."""
    names = [model.name for model in fitted.models]
    return {
        "OLLAMA_NUM_PARALLEL": _parallel(wish, fitted, names, sized=sized),
        "OLLAMA_KV_CACHE_TYPE": _kv_type(wish, fitted, names, sized=sized),
        "OLLAMA_SCHED_SPREAD": _SPREAD if fitted.mode.spread else _WHOLE,
    }


def _parallel(wish: Wish, fitted: Fitted, names: Iterable[str], *, sized: bool) -> str:
    slots, needed = fitted.mode.parallel, wish.needed(names)
    if slots < needed:
        return f"what fits of the {needed} that are wished for"
    if slots > needed and any(wish.slots[name] == 0 for name in names):
        return f"as many as fit, {MOST_SLOTS} at most" if sized else "nothing says how many would fit"
    if slots > needed:
        return "as the servers run: fewer would do now"
    return "largest wish of the models"


def _kv_type(wish: Wish, fitted: Fitted, names: Iterable[str], *, sized: bool) -> str:
    kind, slots = fitted.mode.kv_type, fitted.slots
    if not sized:
        return "nothing says how large a GPU is: the cache is not quantised"
    if kind not in PLAIN_CACHES:
        before = wish.options.kv_type
        plain = slots.get(before, 0)
        if not plain:
            return f"the models fit with {kind} only; {before} does not fit"
        lengths = sorted({model.context_length for model in fitted.models if model.context_length})
        tokens = f" of {lengths[0]} tokens" if len(lengths) == 1 else ""
        return f"{slots.get(kind, fitted.mode.parallel)} slots{tokens} fit with {kind}, {plain} with {before}"
    if fitted.mode.parallel >= wish.needed(names):
        return "the wish fits without quantising"
    return "quantised, no more would fit" if len(slots) > 1 else "the models cannot be run with a quantised cache"
