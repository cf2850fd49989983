"""From pydantic models to the structural OpenAPI schemas that custom resource definitions need. Pure.

Also the marks that fields and models carry for it: list types and CEL rules.
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
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
)


def list_map(*keys: str) -> JsonDict:
    """A list whose items several writers may own, one each by key."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


def list_set() -> JsonDict:
    """A list without order and repetition."""
    return {"x-kubernetes-list-type": "set"}


def list_atomic() -> JsonDict:
    """A list that one writer owns as a whole."""
    return {"x-kubernetes-list-type": "atomic"}


def rule(expression: str, message: str, *, field: str | None = None) -> JsonDict:
    """A CEL rule; ``message`` names the field and the remedy, ``field`` (``.a.b``) is where it is reported."""
    found: JsonDict = {"rule": expression, "message": message}
    return {**found, "fieldPath": field} if field else found


def rules(*found: JsonDict) -> JsonDict:
    """CEL rules of a model, for ``json_schema_extra``."""
    return {"x-kubernetes-validations": list(found)}


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model: no references, no unions, no defaults."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    schema = _resolve(schema, definitions)
    found: Schema = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        found["enum"] = [schema["const"]]
    if "description" in found:
        found["description"] = " ".join(found["description"].split())
    if "properties" in schema:
        found["properties"] = {name: _convert(value, definitions) for name, value in schema["properties"].items()}
    if "items" in schema:
        found["items"] = _convert(schema["items"], definitions)
        found.setdefault("x-kubernetes-list-type", "atomic")
    if found.get("type") == "object" and "properties" not in found:
        found |= _free_form(schema.get("additionalProperties"), definitions)
    if "type" not in found:
        # A value of several types cannot be structural: it is taken as it is and checked by the operator.
        found["x-kubernetes-preserve-unknown-fields"] = True
    return found


def _resolve(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Schema:
    """Follow references and drop the null of optional fields, keeping what the outer schema says."""
    outer = {key: value for key, value in schema.items() if key not in {"$ref", "anyOf", "default", "title"}}
    if "$ref" in schema:
        return _resolve(definitions[schema["$ref"].rpartition("/")[2]], definitions) | outer
    alternatives = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    if len(alternatives) == 1:
        return _resolve(alternatives[0], definitions) | outer
    return outer


def _free_form(values: Any, definitions: Mapping[str, Any]) -> Schema:
    if isinstance(values, Mapping) and values:
        return {"additionalProperties": _convert(values, definitions)}
    return {"x-kubernetes-preserve-unknown-fields": True}
