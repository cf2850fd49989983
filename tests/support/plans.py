"""Plan requests for tests, with everything resolved unless a test says otherwise."""

from typing import Any

from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest, PreviousGroup

CPU = {"cpu": {"cores": "1", "memory": "1Gi"}}
GPU = {"gpu": {"count": 1}}


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def view(*models: dict[str, Any], name: str = "models", resolved: dict[str, str] | None = None) -> ModelSetView:
    """A ModelSet whose models are resolved; ``resolved`` maps a served name to the letter of its digest."""
    spec = ModelSetSpec.model_validate({"models": list(models)})
    status = ModelSetStatus(
        observed_generation=1,
        models=[
            ResolvedModel(
                name=model.name,
                reference=f"registry.test/library/{_tagged((model.model or model.name).lower())}",
                digest=digest((resolved or {}).get(model.name, "a")),
                size=1000,
                ready=True,
            )
            for model in spec.models
        ],
    )
    return ModelSetView(name, spec, status, generation=1)


def request(
    *views: ModelSetView | None,
    hardware: dict[str, Any] | None = None,
    previous: tuple[PreviousGroup, ...] = (),
    fleet_image: str = "fleet:1",
    digests: dict[str, str] | None = None,
    **spec: Any,
) -> PlanRequest:
    names = [one.name if one else "missing" for one in views]
    wish = {"modelSets": [{"name": name} for name in names], "version": "0.32.3", "hardware": hardware or CPU, **spec}
    return PlanRequest(
        namespace="ns",
        name="chat",
        spec=OllamaDeploymentSpec.model_validate(wish),
        model_sets=dict(zip(names, views, strict=True)),
        policy=ImagePolicy(fleet_image=fleet_image, digests=digests or {}),
        previous=previous,
    )
