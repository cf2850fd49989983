"""Request bodies: read strictly, brought in line with the fleet's policy, written anew.

Go decodes JSON keys without regard to case and lets the last one win, so ``{"model": "a", "MODEL": "b"}`` reaches
``b``: bytes of a client are never passed on, and keys that only differ in case are refused.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from ollama_fleet.api.group import GroupModel
from ollama_fleet.sidecar.refusals import Refused
from ollama_fleet.sidecar.routes import Kind, Route
from ollama_fleet.sidecar.served import Served

_STRIPPED_OPTIONS: Final = frozenset(
    {
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "use_mmap",
        "use_mlock",
        "numa",
        "low_vram",
        "draft_num_predict",
    }
)
"""Options that make Ollama unload and load a model again when they differ from request to request."""
_MAX_MARKS: Final = 512 * 1024
"""Marks that stand between values of JSON: parsed, values take up to 140 bytes for each of them, and a second for all.
Those in texts count too; one with so many has more tokens than a context."""
_MARKS: Final = b",:[{"
_STRIPPED_FIELDS: Final = frozenset({"shift"})
_INPUT_FIELDS: Final = ("prompt", "messages", "input", "images")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A body that may go to Ollama."""

    model: GroupModel
    body: bytes


def prepare(raw: bytes, *, route: Route, served: Served) -> Prepared:
    """Check a body and bring it in line. Raises Refused."""
    document = _parse(raw)
    model = served.find(_model_name(document))
    wire = {key: value for key, value in document.items() if key not in _STRIPPED_FIELDS}
    wire["model"] = model.name
    wire.pop("name", None)
    if isinstance(wire.get("options"), dict):
        options = _proper(wire["options"], _OPTION_NAMES)
        wire["options"] = {key: value for key, value in options.items() if key not in _STRIPPED_OPTIONS}
    if route.kind is Kind.MODEL and route.dialect.value == "ollama":
        _refuse_unload(document)
        wire["keep_alive"] = keep_alive(model, served)
    return Prepared(model, _serialised(wire))


def keep_alive(model: GroupModel, served: Served) -> int | str:
    """Pinned models stay for good; others as long as the ModelSet says, and clients do not decide."""
    # Names over the same weights share one runner, and the last request says how long it stays.
    if any(other.residency == "Pinned" for other in served if served.runner(other) == served.runner(model)):
        return -1
    return model.keep_alive or "5m"


def _parse(raw: bytes) -> dict[str, Any]:
    if sum(map(raw.count, _MARKS)) > _MAX_MARKS:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body has too many values")
    try:
        document = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is nested too deeply") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return _proper(document, _FIELD_NAMES)


def _serialised(document: Mapping[str, Any]) -> bytes:
    try:
        # Half a surrogate pair is legal in JSON's escapes and has no place in UTF-8.
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, "the body has a number that is too large") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body names a key twice in one object")
    return found


def _proper(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Known fields under their proper names: in any case they reach Ollama. What is deeper is the client's own data."""
    found: dict[str, Any] = {}
    seen: set[str] = set()
    for key, value in document.items():
        folded = key.casefold()
        if folded in seen:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body names {key[:64]!r} twice (case does not count)")
        seen.add(folded)
        found[names.get(folded, key)] = value
    return found


_FIELD_NAMES: Final = {
    name: name for name in ("model", "name", "options", "keep_alive", "stream", *_STRIPPED_FIELDS, *_INPUT_FIELDS)
}
_OPTION_NAMES: Final = {name: name for name in _STRIPPED_OPTIONS}


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _model_name(document: Mapping[str, Any]) -> str:
    name = document.get("model", document.get("name"))
    if not isinstance(name, str) or not name:
        raise Refused(HTTPStatus.BAD_REQUEST, "model is required")
    return name


def _refuse_unload(document: Mapping[str, Any]) -> None:
    """``ollama stop`` sends no input and ``keep_alive: 0``; made into anything else it would be a load."""
    if any(document.get(field) for field in _INPUT_FIELDS):
        return
    if is_zero(document.get("keep_alive")):
        raise Refused(
            HTTPStatus.FORBIDDEN,
            "models of this fleet are unloaded by their ModelSet, not by clients: remove the model or make it OnDemand",
        )


def is_zero(keep_alive: object) -> bool:
    """Whether a model leaves memory as soon as it is idle."""
    if isinstance(keep_alive, str):
        return re.fullmatch(r"[+-]?0[0.a-zµμ]*", keep_alive) is not None
    return isinstance(keep_alive, int | float) and not isinstance(keep_alive, bool) and keep_alive == 0
