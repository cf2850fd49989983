"""Does a live object still say what was applied? Pure.

The hash of what was applied travels with the object, but somebody who edits the object leaves the hash alone. So the
wish is also compared with the live object, field by field: everything the wish names must be there, whatever else the
API server defaulted or others own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_LIST_KEYS = ("name", "mountPath", "containerPort", "port", "type", "key", "topologyKey")


def holds(wish: Any, live: Any) -> bool:
    """Whether every field of the wish stands in the live object with the same value."""
    if isinstance(wish, Mapping):
        if not isinstance(live, Mapping):
            # Empty maps are dropped by the API server.
            return not wish and live is None
        return all(holds(value, live.get(key)) for key, value in wish.items())
    if isinstance(wish, list):
        if not isinstance(live, list):
            return not wish and live is None
        return len(live) >= len(wish) and all(
            holds(item, _counterpart(item, index, live)) for index, item in enumerate(wish)
        )
    return bool(wish == live)


def _counterpart(item: Any, index: int, live: Sequence[Any]) -> Any:
    """The element of a live list that an element of the wish speaks about."""
    if isinstance(item, Mapping):
        for key in _LIST_KEYS:
            if key in item:
                return next((other for other in live if other.get(key) == item[key]), None)
    return live[index]
