"""What the examples become in a cluster, held against reviewed files: nothing about a pod changes unnoticed."""

import json
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_fleet.api import names
from testbed.paths import ROOT
from tests.support.examples import planned

GOLDEN = ROOT / "tests/golden"
REMEDY = "pytest tests/unit/test_rendered_objects_are_as_agreed.py --update-golden, and review the difference"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks; nothing is written as a reference to something above."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def rendered(name: str) -> str:
    """The objects of an example, without the copy of the pod template that the Deployments carry."""
    objects = [item for wish in planned(name) for item in wish.render()]
    for item in objects:
        if item["kind"] == "Deployment":
            carried = item["metadata"]["annotations"].pop(names.ANNOTATION_TEMPLATE)
            assert json.loads(carried) == item["spec"]["template"]
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=10_000)


def compare(actual: str, file: Path) -> None:
    """Fail with the difference and the way out of it."""
    agreed = file.read_text() if file.exists() else ""
    if actual == agreed:
        return
    difference = "".join(
        unified_diff(agreed.splitlines(keepends=True), actual.splitlines(keepends=True), str(file), "rendered")
    )
    pytest.fail(f"{file.name} is not what is rendered. If that is meant: {REMEDY}.\n{difference}", pytrace=False)


@pytest.mark.parametrize("name", ["cpu-chat", "multi-tenant", "embeddings-beside-chat"])
def test_an_example_renders_as_agreed(name: str, request: pytest.FixtureRequest) -> None:
    file = GOLDEN / f"{name}.yaml"
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(rendered(name))
    compare(rendered(name), file)


def test_a_difference_is_shown_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text("a: 1\nb: 2\n")
    with pytest.raises(pytest.fail.Exception) as failed:
        compare("a: 1\nb: 3\n", file)
    assert "-b: 2\n+b: 3\n" in str(failed.value)
    assert "--update-golden" in str(failed.value)
