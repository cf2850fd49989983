"""From pydantic models to the structural OpenAPI schemas that custom resource definitions need. Pure.

Also the marks that fields and models carry for it: list types, patterns with words, and CEL rules.
"""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.config import JsonDict

Schema = dict[str, Any]

_KEPT: Final = (
    "type",
    "description",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)
_WORDS: Final = "x-words"
_RULES: Final = "x-kubernetes-validations"
_INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_OPEN: Final = "x-kubernetes-preserve-unknown-fields"


def list_map(*keys: str) -> JsonDict:
    """A list whose items several writers may own, one each by key."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def list_set() -> JsonDict:
    """A list without order and repetition, whose items several writers may own."""
    return {"x-kubernetes-list-type": "set"}


def list_atomic() -> JsonDict:
    """A list that one writer owns as a whole."""
    return {"x-kubernetes-list-type": "atomic"}


def map_atomic() -> JsonDict:
    """A map that one writer owns as a whole."""
    return {"x-kubernetes-map-type": "atomic"}


def words(message: str) -> JsonDict:
    """Says what the field's pattern means and how to meet it: people see this instead of a regular expression."""
    return {_WORDS: message}


def int_or_string() -> JsonDict:
    """A string that people also write as a bare number, such as ``cores: 2``."""
    return {_INT_OR_STRING: True}


def rule(expression: str, message: str, *, field: str | None = None, says: str | None = None) -> JsonDict:
    """A CEL rule; ``message`` names the field and the remedy, ``field`` (``.a.b``) is where it is reported.

    ``says`` is a CEL expression of a message that names the value at fault; ``message`` stands in for it.
    """
    found: JsonDict = {"rule": expression, "message": message}
    if says:
        found["messageExpression"] = says
    if field:
        found["fieldPath"] = field
    return found


def rules(*found: JsonDict) -> JsonDict:
    """CEL rules of a model or a field, for ``json_schema_extra``."""
    return {_RULES: list(found)}


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model: no references, no unions but int-or-string, no defaults."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    schema = _resolve(schema, definitions)
    found: Schema = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "description" in found:
        found["description"] = " ".join(found["description"].replace("``", "`").split())
    if "properties" in schema:
        found["properties"] = {name: _convert(value, definitions) for name, value in schema["properties"].items()}
    if "items" in schema:
        found["items"] = _convert(schema["items"], definitions)
    if schema.get("type") == "object":
        found |= _others(schema, definitions)
    if _INT_OR_STRING in found:
        del found["type"]
        found["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if _WORDS in schema:
        # Rules run only on objects that the plain schema takes: the pattern gives way to them.
        text = "string(self)" if _INT_OR_STRING in found else "self"
        matches = rule(f"{text}.matches(r'{found.pop('pattern')}')", schema[_WORDS])
        found[_RULES] = [matches, *found.get(_RULES, ())]
    return found


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Follow references and drop the null of optional fields, keeping what the outer schema says."""
    outer = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf", "default", "title"}}
    if "$ref" in schema:
        return _resolve(definitions[schema["$ref"].rpartition("/")[2]], definitions) | outer
    alternatives = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(alternatives) == 1:
        return _resolve(alternatives[0], definitions) | outer
    if alternatives:
        raise TypeError(f"a union of {len(alternatives)} types cannot be structural: {schema}")
    return outer


def _others(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """What an object may hold beside its properties."""
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return {"additionalProperties": _convert(values, definitions)}
    return {_OPEN: True} if values is True else {}
