"""What holds for every field of every definition, and for the pages and files made from them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_fleet.api import reference
from ollama_fleet.api.crd import DEFINITIONS, Definition, definition
from ollama_fleet.api.generate import main, outputs
from ollama_fleet.api.modelfile import ModelParameters
from ollama_fleet.api.reasons import MEANINGS, Reason
from ollama_fleet.store.parameters import PARAMETERS

ROOT = Path(__file__).parents[2]

Schema = dict[str, Any]


def nodes(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, value in schema.get("properties", {}).items():
        yield from nodes(value, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def root(kind: Definition) -> Schema:
    found: Schema = definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


FIELDS = {
    f"{kind.kind}{path}": schema
    for kind in DEFINITIONS
    for side in ("spec", "status")
    for path, schema in nodes(root(kind)["properties"][side], f".{side}")
}
WHOLE_STATUSES = {f"{kind.kind}.status" for kind in DEFINITIONS}
DESCRIBED = {name: schema for name, schema in FIELDS.items() if not name.endswith(("[]", "{}"))}


def offenders(wrong: Callable[[Schema], bool]) -> list[str]:
    return [name for name, schema in FIELDS.items() if wrong(schema)]


def test_schemas_are_structural() -> None:
    """No references and no unions but int-or-string."""
    assert len(FIELDS) > 150
    forbidden = {"$ref", "oneOf", "allOf", "not", "title", "const", "nullable"}
    assert offenders(lambda schema: bool(forbidden & schema.keys())) == []
    either = [{"type": "integer"}, {"type": "string"}]
    assert (
        offenders(
            lambda schema: (
                ("type" in schema or schema["anyOf"] != either)
                if schema.get("x-kubernetes-int-or-string")
                else ("anyOf" in schema or "type" not in schema)
            )
        )
        == []
    )


def test_everything_is_bounded_and_every_list_says_who_owns_it() -> None:
    strings = offenders(lambda schema: schema.get("type") == "string" and not {"maxLength", "enum"} & schema.keys())
    lists = offenders(
        lambda schema: schema.get("type") == "array" and not {"maxItems", "x-kubernetes-list-type"} <= schema.keys()
    )
    maps = offenders(lambda schema: "additionalProperties" in schema and "maxProperties" not in schema)
    assert strings + lists + maps == []


def test_keys_of_list_maps_are_required() -> None:
    """The API server wants every key to be required or to have a default; ours have no defaults."""
    assert (
        offenders(
            lambda schema: (
                not set(schema.get("x-kubernetes-list-map-keys", ()))
                <= set(schema.get("items", {}).get("required", ()))
            )
        )
        == []
    )


def test_only_the_status_as_a_whole_has_a_default() -> None:
    assert set(offenders(lambda schema: "default" in schema)) == WHOLE_STATUSES
    assert all(FIELDS[name]["default"] == {"observedGeneration": -1} for name in WHOLE_STATUSES)


def test_every_field_is_described() -> None:
    texts = {name: str(schema.get("description", "")) for name, schema in DESCRIBED.items()}
    assert [name for name, text in texts.items() if len(text) < 4 or "``" in text or "\n" in text] == []


def test_every_rule_says_what_to_do() -> None:
    found = [rule["message"] for schema in FIELDS.values() for rule in schema.get("x-kubernetes-validations", ())]
    assert len(found) > 30
    assert [message for message in found if not re.search(r"must|needs|set|keep|remove|rename", message)] == []


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)
def test_columns_choose_conditions_by_type_and_stay_narrow(kind: Definition) -> None:
    narrow = [column for column in kind.columns if not column.wide]
    # kubectl adds the name.
    assert len(narrow) <= 6
    assert [column.name for column in narrow[:2]] == ["Ready", "Reason"]
    assert narrow[-1].name == "Age"
    assert not any("conditions[0]" in column.path for column in kind.columns)
    known = {path.removeprefix(f"{kind.kind}") for path in FIELDS if path.startswith(kind.kind)}
    assert {
        column.path for column in kind.columns if column.path.startswith(".status") and "?" not in column.path
    } <= known


@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)
def test_examples_are_what_the_operator_reads(kind: Definition) -> None:
    example = yaml.safe_load(kind.example)
    assert example["kind"] == kind.kind
    assert kind.spec.model_validate(example["spec"]).model_dump(by_alias=True, exclude_none=True) == example["spec"]


def test_every_reason_is_explained_with_a_next_step() -> None:
    assert set(MEANINGS) == set(Reason)
    for meaning, step in MEANINGS.values():
        assert meaning.endswith(".")
        assert step.endswith(".")
    page = reference.reasons()
    assert all(f"| `{reason}` |" in page for reason in Reason)


def test_the_reference_names_every_field() -> None:
    page = reference.custom_resources()
    for name in DESCRIBED:
        path = name.partition(".")[2]
        assert path in {"spec", "status"} or f"`{path}`" in page or "{}" in path


def test_parameters_are_those_that_the_store_writes() -> None:
    kinds = {
        name: {"array": "strings"}.get(schema["type"], schema["type"])
        for name, schema in FIELDS["ModelSet.spec.models[].modelfile.parameters"]["properties"].items()
    }
    assert kinds == PARAMETERS
    assert ModelParameters.model_validate({"temperature": 1, "stop": ["a"], "new_one": "x"}).to_wire() == {
        "temperature": 1,
        "stop": ["a"],
        "new_one": "x",
    }


def test_long_texts_of_a_status_are_shortened_instead_of_refused() -> None:
    ollama_deployment = DEFINITIONS[0].status
    written = ollama_deployment.model_validate({"models": [{"name": "a", "message": "x" * 5000}]}).model_dump()
    assert written["models"][0]["message"] == "x" * 1024


def test_generated_files_are_written_and_then_fresh(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(tmp_path)]) == 1
    assert "crds/modelsets.yaml is stale: run `make generate`" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "docs/reference/reasons.md").write_text("edited")
    capsys.readouterr()
    assert main(["--check", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "docs/reference/reasons.md is stale: run `make generate`\n"


def test_the_committed_files_are_fresh() -> None:
    assert [str(path) for path, text in outputs() if (ROOT / path).read_text() != text] == []
