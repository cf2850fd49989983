"""For what does not fit: numbers, and changes with which it does fit when they are made."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.problems import Remedy
from ollama_fleet.planning.quantisation import parameters, scaled, smaller_file
from ollama_fleet.sizing.shape import ModelShape
from tests.support.plans import GIB, L4, Survey, again, layout, shape_of, wish

LLAMA = {"name": "llama3.1:8b", "contextLength": 8192}
LARGE = replace(L4, largest=78 * GIB, largest_memory="79Gi")


def refused(plan: Plan) -> dict[str, tuple[Remedy, ...]]:
    return {problem.message.split()[0]: problem.remedies for problem in (*plan.problems, *plan.left_out)}


def placed(plan: Plan) -> set[str]:
    return {name for names in layout(plan).values() for name in names}


def made(
    name: str, change: dict[str, Any], models: list[dict[str, Any]], inventory: Inventory, spec: dict[str, Any]
) -> Plan:
    """The plan with one remedy followed."""
    shapes: dict[str, ModelShape] = {model["name"]: shape_of(model.get("model", model["name"])) for model in models}
    tuning, models = dict(spec.get("tuning", {})), [dict(model) for model in models]
    (entry,) = [model for model in models if model["name"] == name]
    match change:
        case {"numParallel": value}:
            tuning["numParallel"] = value
        case {"kvCacheType": value}:
            tuning["kvCacheType"] = value
        case {"contextLength": value}:
            entry["contextLength"] = value
        case {"residency": value}:
            entry["residency"] = value
        case {"fileBytes": value}:
            shapes[name] = scaled(shapes[name], value / shapes[name].file_bytes)
        case {"servers": value}:
            inventory = replace(inventory, servers=value)
        case {"minMemory": _}:
            inventory = replace(inventory, usable=inventory.largest, servers=inventory.servers + 1)
        case {"count": value}:
            inventory = replace(inventory, gpus=value, servers=max(1, inventory.servers * inventory.gpus // value))
        case _:
            raise AssertionError(change)
    asked = wish(*models, shapes=shapes, inventory=inventory, **{**spec, "tuning": tuning})
    return plan_deployment(replace(asked, survey=Survey(inventory)))


CASES: dict[str, tuple[list[dict[str, Any]], Inventory, dict[str, Any]]] = {
    "context": ([{**LLAMA, "contextLength": 131072, "parallel": 1}], replace(L4, usable=12 * GIB), {}),
    "cache that was chosen": (
        [{**LLAMA, "contextLength": 131072, "parallel": 1}],
        L4,
        {"tuning": {"kvCacheType": "f16"}},
    ),
    "slots that were chosen": ([{**LLAMA, "contextLength": 65536}], L4, {"tuning": {"numParallel": 8}}),
    "quantisation": (
        [{"name": "qwen2.5:32b", "contextLength": 16384, "parallel": 1}],
        replace(L4, usable=17 * GIB),
        {},
    ),
    "servers": ([LLAMA, {"name": "phi4:14b", "contextLength": 16384, "parallel": 4}], replace(L4, usable=16 * GIB), {}),
    "larger cards": ([{"name": "llama3.1:70b", "contextLength": 8192, "parallel": 1}], LARGE, {}),
    "more GPUs": ([{"name": "llama3.1:70b", "contextLength": 4096, "parallel": 1}], L4, {}),
    "many": (
        [
            {"name": f"m{n}", "model": model, "contextLength": 16384, "parallel": 2}
            for n, model in enumerate(("llama3.1:8b", "phi4:14b", "qwen2.5:32b", "gemma3:12b", "qwen3:30b"))
        ],
        replace(LARGE, servers=2),
        {},
    ),
    "older Ollama": (
        [{**LLAMA, "contextLength": 131072}],
        replace(L4, usable=20 * GIB),
        {"version": "0.24.0", "tuning": {"kvCacheType": "f16"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_that_is_named_makes_it_fit(case: str) -> None:
    models, inventory, spec = CASES[case]
    shapes = {model["name"]: shape_of(model.get("model", model["name"])) for model in models}
    found = refused(plan_deployment(wish(*models, shapes=shapes, inventory=inventory, **spec)))
    assert found
    for name, remedies in found.items():
        assert remedies, name
        for remedy in remedies:
            plan = made(name, dict(remedy.change), models, inventory, spec)
            assert name in placed(plan), remedy.text


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("context", "contextLength"),
        ("cache that was chosen", "kvCacheType"),
        ("slots that were chosen", "numParallel"),
        ("quantisation", "fileBytes"),
        ("servers", "servers"),
        ("larger cards", "minMemory"),
        ("more GPUs", "count"),
    ],
)
def test_each_kind_of_change_is_named_where_it_helps(case: str, kind: str) -> None:
    models, inventory, spec = CASES[case]
    shapes = {model["name"]: shape_of(model.get("model", model["name"])) for model in models}
    plan = plan_deployment(wish(*models, shapes=shapes, inventory=inventory, **spec))
    assert kind in {key for remedies in refused(plan).values() for remedy in remedies for key in remedy.change}


def test_the_numbers_are_those_of_the_model_itself() -> None:
    (problem,) = plan_deployment(wish({"name": "llama3.1:70b", "contextLength": 4096, "parallel": 1})).problems
    assert problem.message.startswith(
        "llama3.1:70b needs 41.5 GiB of a GPU with 4096 tokens of context and 1 slot and the most that is free for it "
        "is 21.0 GiB: hardware.gpu.count 4 would make it fit"
    )


def test_the_largest_context_that_fits_is_named() -> None:
    asked = {**LLAMA, "contextLength": 131072, "parallel": 1}
    tight = replace(L4, usable=12 * GIB)
    (problem,) = plan_deployment(wish(asked, inventory=tight)).problems
    context = next(remedy.change["contextLength"] for remedy in problem.remedies if "contextLength" in remedy.change)
    assert isinstance(context, int)
    assert plan_deployment(wish({**asked, "contextLength": context}, inventory=tight)).problems == ()
    assert plan_deployment(wish({**asked, "contextLength": context + 1024}, inventory=tight)).problems


@pytest.mark.parametrize(
    ("model", "billions"),
    [("llama3.1:8b", 8.03), ("llama3.1:70b", 70.6), ("qwen2.5:32b", 32.8), ("gemma3:12b", 11.8), ("qwen3:30b", 30.5)],
)
def test_weights_are_counted_from_the_dimensions(model: str, billions: float) -> None:
    """Against the counts that the models' publishers give."""
    assert parameters(shape_of(model)) / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_smaller_file_is_named_with_a_quantisation_that_comes_to_it() -> None:
    shape = shape_of("llama3.1:8b")
    found = smaller_file(shape, lambda changed: changed.file_bytes <= 4 * GIB)
    assert found is not None
    assert (found.kind, found.most) == ("q3_K_M", pytest.approx(4 * GIB, rel=0.001))
    assert smaller_file(shape, lambda changed: changed.file_bytes <= GIB) is None
    assert smaller_file(replace(shape, encoder=True), lambda _: True) is None


def test_a_model_that_fits_nowhere_says_so() -> None:
    tiny = replace(L4, usable=2 * GIB)
    (problem,) = plan_deployment(wish({"name": "llama3.1:70b", "contextLength": 4096}, inventory=tiny)).problems
    assert problem.message.endswith("no smaller context, cache or file would fit; use larger GPUs, or remove a model")


def test_a_prediction_that_would_evict_another_model_is_told_as_such() -> None:
    """It fits beside the other, and Ollama does not know it: it counts the cache as f16."""
    models = [{"name": name, "contextLength": 65536, "parallel": 1} for name in ("a", "b")]
    shapes = dict.fromkeys(("a", "b"), shape_of("llama3.1:8b"))
    (problem,) = plan_deployment(wish(*models, shapes=shapes, tuning={"kvCacheType": "q4_0"})).left_out
    assert problem.message.startswith("b fits, but Ollama predicts 12.6 GiB where 11.")
    assert (
        plan_deployment(wish(*models, shapes=shapes, tuning={"kvCacheType": "q4_0"}, version="0.24.0")).left_out == ()
    )


def test_on_demand_helps_a_newcomer_that_would_take_the_room_of_others() -> None:
    """Another OnDemand model runs there and needs what the newcomer wants to keep for good."""
    models = (
        {**LLAMA, "parallel": 1},
        {"name": "phi4:14b", "contextLength": 4096, "parallel": 1, "residency": "OnDemand"},
    )
    before = plan_deployment(wish(*models))
    new = {"name": "qwen2.5:7b", "contextLength": 8192, "parallel": 1}
    (problem,) = again(before, wish(*models, new)).left_out
    assert problem.remedies[0].change == {"residency": "OnDemand"}
    assert again(before, wish(*models, {**new, "residency": "OnDemand"})).left_out == ()
