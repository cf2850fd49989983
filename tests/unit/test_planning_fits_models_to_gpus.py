"""Groups, slots and reasons: what the planner makes of models of known size on GPUs of known size."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ollama_fleet.api.modelset import ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.cli import catalogue
from ollama_fleet.planning.inventory import Inventory, survey
from ollama_fleet.planning.placement import NodeView
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ModelSetView, PlanRequest, PreviousGroup
from ollama_fleet.sizing.portable import from_document, to_document
from tests.support.plans import GPU, request, view

GIB = 2**30
L4 = Inventory(gpus=1, usable=int(22.0 * GIB), servers=1, source="test")


def sized(models: list[dict[str, Any]]) -> ModelSetView:
    """A ModelSet of models of the bundled catalogue, with their headers in the status."""
    letters = {model["name"]: chr(ord("a") + index) for index, model in enumerate(models)}
    found = view(*models, resolved=letters)

    def with_header(resolved: ResolvedModel) -> ResolvedModel:
        model = next(model for model in models if model["name"] == resolved.name)
        shape = catalogue.look_up(model.get("model", model["name"]))
        assert shape is not None
        return resolved.model_copy(update={"header": to_document(shape)})

    status = found.status.model_copy(update={"models": [with_header(model) for model in found.status.models]})
    return replace(found, status=status)


def wish(*models: dict[str, Any], inventory: Inventory | None = L4, **spec: Any) -> PlanRequest:
    return replace(request(sized(list(models)), hardware=GPU, **spec), inventory=inventory)


def previous(plan: Plan) -> tuple[PreviousGroup, ...]:
    return tuple(PreviousGroup(name=group.name, config=group.config) for group in plan.groups)


def slots(plan: Plan) -> dict[str, str]:
    return {g.name: {s.name: s.value for s in g.environment}["OLLAMA_NUM_PARALLEL"] for g in plan.groups}


LLAMA = {"name": "llama3.1:8b", "contextLength": 8192}


def test_a_model_gets_the_slots_that_it_asks_for_where_they_fit() -> None:
    plan = plan_deployment(wish(LLAMA))
    assert slots(plan) == {"g0": "4"}
    assert plan.groups[0].planned["llama3.1:8b"] == pytest.approx(9.6 * GIB, rel=0.05)


def test_slots_that_do_not_fit_are_left_away_and_the_reason_says_so() -> None:
    plan = plan_deployment(wish({**LLAMA, "contextLength": 32768}))
    assert slots(plan) == {"g0": "3"}
    (setting,) = [s for s in plan.groups[0].environment if s.name == "OLLAMA_NUM_PARALLEL"]
    assert (setting.source, setting.reason) == ("computed", "what fits of the 4 that are wished for")


def test_an_explicit_number_of_slots_is_kept_and_its_misfit_explained() -> None:
    plan = plan_deployment(wish({**LLAMA, "contextLength": 32768}, tuning={"numParallel": 8}))
    (problem,) = plan.problems
    assert problem.reason is Reason.DOES_NOT_FIT
    assert "remove spec.tuning.numParallel" in problem.message


def test_two_models_that_do_not_fit_together_get_a_server_each_where_there_are_gpus() -> None:
    models = ({**LLAMA, "parallel": 1}, {"name": "phi4:14b", "contextLength": 16384, "parallel": 1})
    small = replace(L4, usable=15 * GIB)
    alone = plan_deployment(wish(*models, inventory=small))
    assert [group.name for group in alone.groups] == ["g0"]
    assert [problem.reason for problem in alone.left_out] == [Reason.DOES_NOT_FIT]
    plan = plan_deployment(wish(*models, inventory=replace(small, servers=2)))
    assert [[m.name for m in group.config.models] for group in plan.groups] == [["phi4:14b"], ["llama3.1:8b"]]
    assert plan.left_out == ()


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ({"name": "qwen2.5:32b", "contextLength": 32768, "parallel": 1}, "contextLength 4096"),
        ({"name": "llama3.1:8b", "contextLength": 131072, "parallel": 1}, "spec.tuning.kvCacheType q8_0"),
        ({"name": "llama3.1:70b", "contextLength": 4096, "parallel": 1}, "hardware.gpu.count 4"),
    ],
)
def test_the_nearest_change_that_fits_is_named_and_does_fit(model: dict[str, Any], remedy: str) -> None:
    (problem,) = plan_deployment(wish(model)).problems
    assert f"{remedy}" in problem.message
    assert "GiB of a GPU and the most that is free" in problem.message
    inventory, changes = L4, {}
    if "contextLength" in remedy:
        model = {**model, "contextLength": 4096}
    elif "q8_0" in remedy:
        changes = {"tuning": {"kvCacheType": "q8_0"}}
    else:
        inventory = replace(L4, gpus=4)
    assert plan_deployment(wish(model, inventory=inventory, **changes)).problems == ()


def test_a_newcomer_without_room_is_left_out_and_the_others_stay_as_they_are() -> None:
    before = plan_deployment(wish(LLAMA))
    after = plan_deployment(
        replace(wish(LLAMA, {"name": "qwen2.5:32b", "contextLength": 4096}), previous=previous(before))
    )
    assert [[m.name for m in group.config.models] for group in after.groups] == [["llama3.1:8b"]]
    assert "qwen2.5:32b" in after.left_out[0].message


def test_a_change_with_which_a_running_model_would_not_fit_changes_nothing() -> None:
    before = plan_deployment(wish({**LLAMA, "parallel": 1}))
    after = plan_deployment(replace(wish({**LLAMA, "contextLength": 131072, "parallel": 1}), previous=previous(before)))
    assert after.groups == ()
    assert after.problems[0].reason is Reason.DOES_NOT_FIT


def test_what_happens_to_nodes_changes_no_running_plan() -> None:
    before = plan_deployment(wish({**LLAMA, "contextLength": 32768}))
    assert slots(before) == {"g0": "3"}
    for inventory in (replace(L4, usable=80 * GIB), replace(L4, usable=8 * GIB)):
        again = wish({**LLAMA, "contextLength": 32768}, inventory=inventory)
        assert slots(plan_deployment(replace(again, previous=previous(before)))) == {"g0": "3"}


def test_nodes_that_show_or_lose_their_labels_change_no_running_plan() -> None:
    heavy = {**LLAMA, "contextLength": 32768}
    blind = plan_deployment(wish(heavy, inventory=None))
    assert slots(blind) == {"g0": "4"}
    assert slots(plan_deployment(replace(wish(heavy), previous=previous(blind)))) == {"g0": "4"}
    seen = plan_deployment(wish(heavy))
    assert slots(plan_deployment(replace(wish(heavy, inventory=None), previous=previous(seen)))) == {"g0": "3"}


def test_a_quantised_cache_is_counted_as_such() -> None:
    plain = plan_deployment(wish({**LLAMA, "contextLength": 32768, "parallel": 2})).groups[0]
    small = plan_deployment(
        wish({**LLAMA, "contextLength": 32768, "parallel": 2}, tuning={"kvCacheType": "q8_0"})
    ).groups[0]
    saved = plain.planned["llama3.1:8b"] - small.planned["llama3.1:8b"]
    assert saved == pytest.approx(8 * GIB * (1 - 34 / 64), rel=0.02)


def test_without_known_gpus_nothing_is_sized_and_the_status_says_so() -> None:
    plan = plan_deployment(wish(LLAMA, inventory=None))
    assert plan.groups[0].planned == {}
    (value,) = [value for value in plan.effective if value.name == "gpuMemory"]
    assert value.value == "unknown"
    assert "nothing is sized" in value.reason


def node(name: str, memory: int, *, product: str = "L4", gpus: int = 4, **labels: str) -> NodeView:
    return NodeView(
        name=name,
        usable=True,
        labels={"nvidia.com/gpu.memory": str(memory), "nvidia.com/gpu.product": product, **labels},
        taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        allocatable={"nvidia.com/gpu": Decimal(gpus)},
    )


def spec(**gpu: Any) -> OllamaDeploymentSpec:
    return OllamaDeploymentSpec.model_validate({"modelSets": [{"name": "m"}], "hardware": {"gpu": {"count": 1, **gpu}}})


def test_the_smallest_card_that_a_server_may_get_counts() -> None:
    nodes = [node("big", 81559, product="H100"), node("small", 23034), node("none", 15360, product="T4")]
    found = survey(spec(minMemory="24Gi"), nodes)
    assert found is not None
    assert found.usable == int(23034 * 2**20 * 0.98)
    assert found.servers == 8
    assert "23034 MiB per GPU on small" in found.source
    only = survey(spec(products=["H100"]), nodes)
    assert only is not None
    assert only.servers == 4


def test_without_a_node_the_wished_memory_counts_and_without_that_nothing() -> None:
    found = survey(spec(minMemory="24Gi"), [])
    assert found is not None
    assert "no such node yet" in found.source
    assert survey(spec(), []) is None
    assert survey(spec(count=8), [node("few", 23034)]) is None


def test_a_header_survives_the_status() -> None:
    for name in catalogue.known():
        shape = catalogue.look_up(name)
        assert shape is not None
        again = from_document(to_document(shape))
        assert sorted(map(repr, again.layers)) == sorted(map(repr, shape.layers))
        assert replace(again, layers=()) == replace(shape, layers=())
