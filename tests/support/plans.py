"""Plan requests for tests, with everything resolved unless a test says otherwise."""

from dataclasses import dataclass, replace
from typing import Any

from ollama_fleet.api.group import GroupConfig, GroupRecord
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.cli import catalogue
from ollama_fleet.planning.inventory import Inventory, Silent
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest, PreviousGroup
from ollama_fleet.sizing.portable import to_document
from ollama_fleet.sizing.shape import ModelShape

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


GIB = 2**30
L4 = Inventory(gpus=1, usable=int(22.0 * GIB), servers=1, source="test")


@dataclass
class Survey:
    """A survey with a given answer that counts how often it is asked for."""

    answer: Inventory | Silent | None
    asked: int = 0

    def __call__(self) -> Inventory | Silent | None:
        self.asked += 1
        return self.answer


def shape_of(name: str) -> ModelShape:
    """A model of the bundled catalogue."""
    found = catalogue.look_up(name)
    assert found is not None
    return found


def sized(*models: dict[str, Any], name: str = "models", shapes: dict[str, ModelShape] | None = None) -> ModelSetView:
    """A ModelSet of models of the bundled catalogue, or of ``shapes`` by served name, with headers in the status."""
    letters = {model["name"]: f"{index:x}"[-1] for index, model in enumerate(models, 1)}
    found = view(*models, name=name, resolved=letters)

    def with_header(resolved: ResolvedModel) -> ResolvedModel:
        model = next(model for model in models if model["name"] == resolved.name)
        shape = (shapes or {}).get(resolved.name) or shape_of(model.get("model", model["name"]))
        return resolved.model_copy(update={"header": to_document(shape), "size": shape.file_bytes})

    status = found.status.model_copy(update={"models": [with_header(model) for model in found.status.models]})
    return replace(found, status=status)


def wish(
    *models: dict[str, Any],
    inventory: Inventory | Silent | None = L4,
    hardware: dict[str, Any] | None = None,
    shapes: dict[str, ModelShape] | None = None,
    **spec: Any,
) -> PlanRequest:
    """Models on GPUs of known size."""
    count = inventory.gpus if isinstance(inventory, Inventory) else 1
    asked = request(sized(*models, shapes=shapes), hardware=hardware or {"gpu": {"count": count}}, **spec)
    return replace(asked, survey=Survey(inventory))


def previous(plan: Plan) -> tuple[PreviousGroup, ...]:
    """What the next plan reads back of one, as it went through the cluster."""
    return tuple(
        PreviousGroup(
            name=group.name,
            config=GroupConfig.model_validate(group.config.to_wire()),
            record=GroupRecord.model_validate(group.record.to_wire()),
        )
        for group in plan.groups
    )


def again(before: Plan, asked: PlanRequest) -> Plan:
    """The plan for a wish where ``before`` runs."""
    return plan_deployment(replace(asked, previous=previous(before)))


def environment(plan: Plan, group: int = 0) -> dict[str, tuple[str, str]]:
    """Value and source by variable."""
    assert plan.problems == ()
    return {setting.name: (setting.value, setting.source) for setting in plan.groups[group].environment}


def value(group: Group, name: str) -> str:
    """The value of one variable."""
    return next(setting.value for setting in group.environment if setting.name == name)


def why(group: Group, name: str) -> str:
    """The reason of one variable."""
    return next(setting.reason for setting in group.environment if setting.name == name)


def layout(plan: Plan) -> dict[str, list[str]]:
    """Served names by group."""
    return {group.name: [model.name for model in group.config.models] for group in plan.groups}


def slots(plan: Plan) -> dict[str, int]:
    """Slots of the servers by group."""
    return {group.name: group.config.num_parallel for group in plan.groups}
