"""The reference pages, made from the models. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from ollama_fleet.api.crd import DEFINITIONS, Definition
from ollama_fleet.api.reasons import MEANINGS
from ollama_fleet.api.schema import structural

_NOTE = "<!-- Generated from operator/ollama_fleet/api by `make generate`; do not edit. -->\n"


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
    rules = [*kind.rules, *_rules(spec)]
    lines = [
        f"## {kind.kind}",
        "",
        f"{kind.description} Short name `{kind.short}`, {scope}.",
        "",
        *_table("spec", spec),
    ]
    if rules:
        lines += ["", "Rules across fields:", "", *(f"- {found['message']}" for found in rules)]
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
        meaning = str(value.get("description", "")).replace("|", "\\|").replace("``", "`")
        yield f"| `{inner}`{mark} | {_type(value)} | {meaning} |"
        yield from _rows(inner, value)
        yield from _rows(f"{inner}[]", value.get("items", {}))


def _type(value: Mapping[str, Any]) -> str:
    if "enum" in value:
        return " or ".join(f"`{choice}`" for choice in value["enum"])
    kind = str(value.get("type", "any"))
    if kind == "array":
        return f"list of {_type(value['items'])}"
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    return f"{kind}, from {low}" if low is not None else kind


def _rules(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from schema.get("x-kubernetes-validations", ())
    for value in schema.get("properties", {}).values():
        yield from _rules(value)
        yield from _rules(value.get("items", {}))
