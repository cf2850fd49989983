"""Options of Ollama (``PARAMETER`` of a Modelfile) and the JSON that Go would write of them.

Names and kinds from Ollama's ``api/types.go``, structs ``Options`` and ``Runner`` (v0.24.0 and v0.32.3; the latter adds
``draft_num_predict``). Ollama ignores unknown names with a warning in its log: we refuse them.
"""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Final, Literal

from ollama_fleet.store.errors import InvalidModelfile

Kind = Literal["integer", "number", "boolean", "strings"]
Value = bool | int | float | list[str]
Given = str | int | float | bool | list[str]
Spec = Mapping[str, Given]

PARAMETERS: Final[Mapping[str, Kind]] = {
    "draft_num_predict": "integer",
    "frequency_penalty": "number",
    "main_gpu": "integer",
    "min_p": "number",
    "num_batch": "integer",
    "num_ctx": "integer",
    "num_gpu": "integer",
    "num_keep": "integer",
    "num_predict": "integer",
    "num_thread": "integer",
    "presence_penalty": "number",
    "repeat_last_n": "integer",
    "repeat_penalty": "number",
    "seed": "integer",
    "stop": "strings",
    "temperature": "number",
    "top_k": "integer",
    "top_p": "number",
    "typical_p": "number",
    "use_mmap": "boolean",
}

_GO_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def parse_parameters(spec: Spec) -> dict[str, Value]:
    """The spec's parameters with the kinds that Ollama decodes. Raises `InvalidModelfile` naming the parameter."""
    return {name: _parse(name, value) for name, value in spec.items()}


def encode_parameters(parameters: Mapping[str, object]) -> bytes:
    """The params layer as Ollama's ``create`` writes it: Go's ``json.Encoder`` over a map."""
    return (_encode(parameters) + "\n").encode()


def _parse(name: str, value: Given) -> Value:
    kind = PARAMETERS.get(name)
    if kind is None:
        raise InvalidModelfile(f"parameter {name!r} is unknown to Ollama; known: {', '.join(PARAMETERS)}")
    parsed = _convert(kind, value)
    if parsed is None:
        raise InvalidModelfile(f"parameter {name!r} must be of kind {kind}, not {value!r}")
    return parsed


def _convert(kind: Kind, value: Given) -> Value | None:
    if kind == "strings":
        return [value] if isinstance(value, str) else value if isinstance(value, list) else None
    if isinstance(value, list):
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else {"true": True, "false": False}.get(str(value).lower())
    if isinstance(value, bool):
        return None
    return _integer(value) if kind == "integer" else _number(value)


def _integer(value: str | float) -> int | None:
    try:
        number = int(value)
    except (ValueError, OverflowError):
        return None
    exact = isinstance(value, str) or number == value
    return number if exact and abs(number) < 1 << 63 else None


def _number(value: str | float) -> float | int | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _encode(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_encode(str(key))}:{_encode(item)}" for key, item in sorted(value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_encode, value)) + "]"
    if isinstance(value, float):
        return _encode_float(value)
    if isinstance(value, str):
        return _encode_string(value)
    return json.dumps(value)


def _encode_string(value: str) -> str:
    """Go escapes what HTML would take for markup, and nothing else beyond what JSON must."""
    return json.dumps(value, ensure_ascii=False).translate(_GO_ESCAPES)


def _encode_float(value: float) -> str:
    """Shortest form that reads back, with an exponent below 1e-6 and from 1e21 on (as in ECMAScript)."""
    if value == 0 or 1e-6 <= abs(value) < 1e21:
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    mantissa, _, exponent = repr(value).partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"
