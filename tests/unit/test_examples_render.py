"""Every example is a wish that can be planned and rendered once its models are known."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import render
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest
from testbed.paths import ROOT
from tests.support.plans import digest

FILES = sorted((ROOT / "examples").rglob("fleet.yaml"))


def documents(path: Path, kind: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found["kind"] == kind]


def view(document: dict[str, Any], letters: str = "abcdef") -> ModelSetView:
    spec = ModelSetSpec.model_validate(document["spec"])
    models = [
        ResolvedModel(name=model.name, reference=f"r/library/{model.name}:x", digest=digest(letter), ready=True)
        for model, letter in zip(spec.models, letters, strict=False)
    ]
    return ModelSetView(document["metadata"]["name"], spec, ModelSetStatus(observed_generation=0, models=models))


def test_there_are_examples() -> None:
    assert len(FILES) == 5


@pytest.mark.parametrize("path", FILES, ids=[path.parent.name for path in FILES])
def test_an_example_can_be_planned_and_rendered(path: Path) -> None:
    sets = {
        (found["metadata"].get("namespace"), found["metadata"]["name"]): view(found)
        for found in documents(path, "ModelSet")
    }
    wishes = documents(path, "OllamaDeployment")
    assert wishes
    for wish in wishes:
        metadata, spec = wish["metadata"], OllamaDeploymentSpec.model_validate(wish["spec"])
        namespace = metadata.get("namespace")
        plan = plan_deployment(
            PlanRequest(
                namespace=namespace or "default",
                name=metadata["name"],
                spec=spec,
                model_sets={reference.name: sets.get((namespace, reference.name)) for reference in spec.model_sets},
                policy=ImagePolicy(fleet_image="fleet:1"),
            )
        )
        assert plan.problems == ()
        for group in plan.groups:
            assert len(render(group, owner=Owner("ns", metadata["name"], "u"), live=None)) == 5
