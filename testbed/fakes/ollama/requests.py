"""Requests as Go decodes them."""

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

FOREVER: Final = timedelta(microseconds=(2**63 - 1) // 1000)
"""What a negative ``keep_alive`` becomes: the longest time that Go can hold, 292 years."""

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|ms|s|m|h)?")
_OPEN_MAPS: Final = frozenset({"options"})
"""Maps, whose keys Go keeps as they are. The keys of its structs match whatever their case."""


class BadRequest(Exception):
    """The server answers 400 with this text."""


def decode(body: bytes) -> dict[str, Any]:
    """A JSON object with lower-case keys; of keys that differ only in case the last one wins."""
    if not body.strip():
        raise BadRequest("missing request body")
    try:
        value = json.loads(body)
    except ValueError as error:
        raise BadRequest("unexpected EOF" if _ends_early(error, body) else f"invalid character: {error}") from None
    if not isinstance(value, dict):
        raise BadRequest(f"json: cannot unmarshal {type(value).__name__} into Go value of type api.GenerateRequest")
    folded: dict[str, Any] = _folded(value)
    return folded


def keep_alive(request: Mapping[str, Any]) -> timedelta | None:
    """The request's ``keep_alive``; None if it has none. Raises BadRequest, for one for "-1", which lacks a unit."""
    value = request.get("keep_alive")
    match value:
        case None:
            return None
        case bool():
            raise BadRequest("Unsupported type: 'bool'")
        case int() | float():
            return FOREVER if value < 0 else timedelta(seconds=value)
        case str():
            seconds = duration(value)
            return FOREVER if seconds < 0 else timedelta(seconds=seconds)
        case _:
            raise BadRequest(f"Unsupported type: '{type(value).__name__}'")


def duration(text: str) -> float:
    """Seconds of a Go duration such as ``1h30m`` or ``-1m``. Raises BadRequest with Go's words."""
    rest = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(rest):
        found = _DURATION.match(rest, position)
        if found is None:
            raise BadRequest(f'time: invalid duration "{text}"')
        if found[2] is None:
            raise BadRequest(f'time: missing unit in duration "{text}"')
        total += float(found[1]) * _UNITS[found[2]]
        position = found.end()
    if not rest:
        raise BadRequest(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def _folded(value: Any) -> Any:
    if isinstance(value, list):
        return [_folded(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    folded = {key.casefold(): entry for key, entry in value.items()}
    return {key: entry if key in _OPEN_MAPS else _folded(entry) for key, entry in folded.items()}


def _ends_early(error: ValueError, body: bytes) -> bool:
    return isinstance(error, json.JSONDecodeError) and error.pos >= len(body.rstrip())
