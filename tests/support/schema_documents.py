"""Documents that a structural schema allows, made at random. Rules across fields are not looked at."""

import re
from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

_PATTERN: Final = re.compile(r"(?:string\(self\)|self)\.matches\(r'(.*)'\)")
_SCALARS: Final = st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.text("abc", max_size=3))


def documents(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a schema; lists and maps stay short."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return _texts(schema) | st.integers(1, 2**40)
    made: st.SearchStrategy[Any] = {
        "object": _objects,
        "array": _lists,
        "string": _texts,
        "boolean": lambda _: st.booleans(),
        "integer": lambda one: st.integers(one.get("minimum", -(2**53)), one.get("maximum", 2**53)),
        "number": lambda _: st.integers(-100, 100) | st.floats(-100, 100).filter(lambda value: value != int(value)),
    }[schema["type"]](schema)
    return made


def _objects(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    properties = schema.get("properties", {})
    if not properties and schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(st.text("abc", min_size=1, max_size=3), _SCALARS, max_size=2)
    if not properties:
        return st.dictionaries(
            st.text("abc", min_size=1, max_size=3), documents(schema["additionalProperties"]), max_size=2
        )
    required = set(schema.get("required", ()))
    made = {name: documents(value) for name, value in properties.items()}
    return st.fixed_dictionaries(
        {name: value for name, value in made.items() if name in required},
        optional={name: value for name, value in made.items() if name not in required},
    )


def _lists(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    keys = schema.get("x-kubernetes-list-map-keys")
    unique = schema["x-kubernetes-list-type"] != "atomic"
    return st.lists(
        documents(schema["items"]),
        min_size=schema.get("minItems", 0),
        max_size=min(schema["maxItems"], 3),
        unique_by=(lambda item: tuple(item[key] for key in keys) if keys else item) if unique else None,
    )


def _texts(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    limit = min(schema["maxLength"], 80)
    for rule in schema.get("x-kubernetes-validations", ()):
        found = _PATTERN.fullmatch(rule["rule"])
        if found:
            return st.from_regex(found[1].removesuffix("$") + r"\Z", alphabet=_ascii()).filter(
                lambda text: schema.get("minLength", 0) <= len(text) <= schema["maxLength"]
            )
    return st.text(_ascii(), min_size=schema.get("minLength", 0), max_size=limit)


def _ascii() -> st.SearchStrategy[str]:
    return st.characters(min_codepoint=32, max_codepoint=126)
