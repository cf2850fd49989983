"""The reference pages, made from the models. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ollama_fleet.api.crd import DEFINITIONS, Definition
from ollama_fleet.api.reasons import MEANINGS
from ollama_fleet.api.schema import structural

_NOTE: Final = "<!-- Generated from operator/ollama_fleet/api by `make generate`; do not edit. -->\n"
_RULES: Final = "x-kubernetes-validations"


def custom_resources() -> str:
    """Every field of the three kinds, with type, limits and meaning, and the rules across fields."""
    pages = "\n".join(_kind(kind) for kind in DEFINITIONS)
    return f"# Custom resources\n\n{_NOTE}\n{pages}"


def reasons() -> str:
    """Every reason with its meaning and what to do."""
    rows = "\n".join(f"| `{reason}` | {meaning} | {step} |" for reason, (meaning, step) in MEANINGS.items())
    return (
        f"# Reasons\n\n{_NOTE}\n"
        "Conditions, events, readiness gates and download progress give one of these reasons; nothing else occurs.\n\n"
        f"| Reason | Meaning | Next step |\n|---|---|---|\n{rows}\n"
    )


def _kind(kind: Definition) -> str:
    scope = "namespaced" if kind.namespaced else "cluster-scoped"
    spec, status = structural(kind.spec), structural(kind.status)
    lines = [
        f"## {kind.kind}",
        "",
        f"{kind.description} Short name `{kind.short}`, {scope}.",
        "",
        "```yaml",
        kind.example + "```",
        "",
        *_table("spec", spec),
    ]
    rules = [("", message) for message in _messages({_RULES: kind.rules})] + list(_across("spec", spec))
    if rules:
        lines += ["", "Rules across fields:", ""]
        lines += [f"- `{path}`: {message}" if path else f"- {message}" for path, message in rules]
    if kind.selectable:
        fields = ", ".join(f"`{path.removeprefix('.')}`" for path in kind.selectable)
        lines += ["", f"`--field-selector` knows {fields}."]
    return "\n".join([*lines, "", *_table("status", status), ""])


def _table(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield "| Field | Type | Meaning |"
    yield "|---|---|---|"
    yield from _rows(name, schema)


def _rows(path: str, schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    for name, value in schema.get("properties", {}).items():
        inner = f"{path}.{name}"
        mark = " (required)" if name in required else ""
        meaning = " ".join([str(value["description"]), *(f"{_sentence(found)}." for found in _demands(value))])
        yield f"| `{inner}`{mark} | {_type(value)} | {meaning.replace('|', chr(92) + '|')} |"
        yield from _rows(inner, value)
        yield from _rows(f"{inner}[]", value.get("items", {}))


def _type(value: Mapping[str, Any]) -> str:
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    if value.get("x-kubernetes-int-or-string"):
        return "quantity"
    kind = str(value["type"])
    if kind == "array":
        limits = "".join(f" ({limit})" for limit in _limits(value, "minItems", "maxItems", "items"))
        return f"list{limits} of {_type(value['items'])}"
    if kind == "string":
        return ", ".join([kind, *_limits(value, "minLength", "maxLength", "characters")])
    if kind == "object" and "additionalProperties" in value:
        return f"map of {_type(value['additionalProperties'])}"
    return ", ".join([kind, *_limits(value, "minimum", "maximum", "")])


def _limits(value: Mapping[str, Any], least: str, most: str, unit: str) -> Iterator[str]:
    low, high = value.get(least), value.get(most)
    if low is not None and high is not None:
        yield f"{low} to {high} {unit}".strip()
    elif high is not None:
        yield f"at most {high} {unit}".strip()
    elif low is not None:
        yield f"from {low} {unit}".strip()


def _demands(value: Mapping[str, Any]) -> Iterator[str]:
    """Rules of a single value; those of objects and lists stand below the table."""
    if value.get("type") not in {"object", "array"}:
        yield from _messages(value)
    elif value.get("type") == "array" and value["items"].get("type") != "object":
        yield from _messages(value["items"])


def _across(path: str, schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if schema.get("type") == "object":
        yield from ((path, message) for message in _messages(schema))
    for name, value in schema.get("properties", {}).items():
        yield from _across(f"{path}.{name}", value)
        yield from _across(f"{path}.{name}[]", value.get("items", {}))


def _messages(schema: Mapping[str, Any]) -> Iterator[str]:
    yield from (str(found["message"]) for found in schema.get(_RULES, ()))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
