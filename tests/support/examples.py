"""The examples as plans, with digests and sizes made up where a registry would give them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import render
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest
from testbed.paths import ROOT
from tests.support.plans import digest

FILES = {path.parent.name: path for path in sorted((ROOT / "examples").rglob("fleet.yaml"))}
"""By the name of the example."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One OllamaDeployment of an example."""

    owner: Owner
    plan: Plan

    def render(self) -> list[dict[str, Any]]:
        """Every object, in the order in which they are applied."""
        return [item for group in self.plan.groups for item in render(group, owner=self.owner, live=None)]


def planned(name: str) -> Iterator[Planned]:
    """The deployments of an example, as they are planned for the first time."""
    documents = list(yaml.safe_load_all(FILES[name].read_text()))
    sets = {_key(found): _view(found) for found in documents if found["kind"] == "ModelSet"}
    for wish in (found for found in documents if found["kind"] == "OllamaDeployment"):
        namespace, deployment = _key(wish)
        spec = OllamaDeploymentSpec.model_validate(wish["spec"])
        request = PlanRequest(
            namespace=namespace,
            name=deployment,
            spec=spec,
            model_sets={reference.name: sets.get((namespace, reference.name)) for reference in spec.model_sets},
            policy=ImagePolicy(fleet_image="ollama-fleet/ollama-fleet:0.1.0"),
        )
        yield Planned(Owner(namespace, deployment, "00000000-0000-4000-8000-000000000000"), plan_deployment(request))


def _key(document: dict[str, Any]) -> tuple[str, str]:
    return document["metadata"].get("namespace", "default"), document["metadata"]["name"]


def _view(document: dict[str, Any]) -> ModelSetView:
    spec = ModelSetSpec.model_validate(document["spec"])
    models = [
        ResolvedModel(
            name=model.name,
            reference=f"registry.ollama.ai/library/{model.model or model.name}",
            digest=digest(letter),
            size=1_000_000_000,
            ready=True,
        )
        for model, letter in zip(spec.models, "abcdef", strict=False)
    ]
    return ModelSetView(document["metadata"]["name"], spec, ModelSetStatus(observed_generation=0, models=models))
