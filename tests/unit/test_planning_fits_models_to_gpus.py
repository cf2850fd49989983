"""Groups, slots and caches: what the planner makes of models of known size on GPUs of known size."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.reasons import Reason
from ollama_fleet.cli import catalogue
from ollama_fleet.planning.inventory import Silent
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.sizing.portable import from_document, to_document
from tests.support.plans import GIB, L4, Survey, layout, previous, shape_of, slots, value, why, wish

LLAMA = {"name": "llama3.1:8b", "contextLength": 8192}
LONG = {**LLAMA, "contextLength": 32768}


def test_a_model_gets_the_slots_that_it_asks_for_where_they_fit() -> None:
    plan = plan_deployment(wish(LLAMA))
    assert slots(plan) == {"g0": 4}
    (group,) = plan.groups
    assert group.planned["llama3.1:8b"] == pytest.approx(9.6 * GIB, rel=0.05)
    assert value(group, "OLLAMA_KV_CACHE_TYPE") == "f16"
    assert why(group, "OLLAMA_KV_CACHE_TYPE") == "the wish fits without quantising"


def test_a_cache_is_quantised_when_more_slots_fit_that_way_and_the_reason_has_the_numbers() -> None:
    (group,) = plan_deployment(wish(LONG)).groups
    assert (group.config.num_parallel, value(group, "OLLAMA_KV_CACHE_TYPE")) == (4, "q8_0")
    assert why(group, "OLLAMA_KV_CACHE_TYPE") == "4 slots of 32768 tokens fit with q8_0, 3 with f16"
    assert (value(group, "OLLAMA_FLASH_ATTENTION"), why(group, "OLLAMA_FLASH_ATTENTION")) == (
        "1",
        "a quantised cache needs it",
    )


def test_a_model_that_fits_with_a_quantised_cache_only_gets_one() -> None:
    (group,) = plan_deployment(wish({**LLAMA, "contextLength": 131072, "parallel": 1})).groups
    assert (group.config.num_parallel, value(group, "OLLAMA_KV_CACHE_TYPE")) == (1, "q8_0")
    assert why(group, "OLLAMA_KV_CACHE_TYPE") == "the models fit with q8_0 only; f16 does not fit"


@pytest.mark.parametrize("tuning", [{"kvCacheType": "f16"}, {"flashAttention": False}])
def test_an_explicit_choice_keeps_the_cache_as_it_is(tuning: dict[str, Any]) -> None:
    (group,) = plan_deployment(wish(LONG, tuning=tuning)).groups
    assert group.options.kv_type == "f16"
    assert group.config.num_parallel < 4
    assert why(group, "OLLAMA_NUM_PARALLEL") == "what fits of the 4 that are wished for"


def test_heads_that_blocks_do_not_divide_keep_their_cache_plain_and_an_explicit_type_is_refused() -> None:
    """llama.cpp refuses to make a context for them."""
    llama = shape_of("llama3.1:8b")
    odd = replace(llama, head_length=80, layers=tuple(replace(x, key_length=80, value_length=80) for x in llama.layers))
    plan = plan_deployment(wish({**LONG, "contextLength": 65536}, shapes={"llama3.1:8b": odd}))
    assert plan.groups[0].options.kv_type == "f16"
    assert plan.groups[0].config.num_parallel < 4
    assert why(plan.groups[0], "OLLAMA_KV_CACHE_TYPE") == "the models cannot be run with a quantised cache"
    (problem,) = plan_deployment(wish(LLAMA, shapes={"llama3.1:8b": odd}, tuning={"kvCacheType": "q8_0"})).problems
    assert problem.reason is Reason.INVALID_SPEC
    assert "the heads of llama3.1:8b have 80 elements" in problem.message


def test_a_batch_gets_as_many_slots_as_fit_and_no_quantised_cache_for_it() -> None:
    (group,) = plan_deployment(wish(LLAMA, profile="batch")).groups
    assert group.config.num_parallel == 14
    assert value(group, "OLLAMA_KV_CACHE_TYPE") == "f16"
    assert why(group, "OLLAMA_NUM_PARALLEL") == "as many as fit, 64 at most"
    small = plan_deployment(wish({**LLAMA, "contextLength": 512}, profile="batch")).groups[0]
    assert small.config.num_parallel == 64
    named = plan_deployment(wish({**LLAMA, "parallel": 2}, profile="batch")).groups[0]
    assert named.config.num_parallel == 2
    blind = plan_deployment(wish(LLAMA, profile="batch", inventory=None)).groups[0]
    assert (blind.config.num_parallel, why(blind, "OLLAMA_NUM_PARALLEL")) == (8, "nothing says how many would fit")


def test_the_sidecar_lets_through_no_more_than_the_server_has_slots() -> None:
    """Ollama would let the rest wait where nobody sees it."""
    models = (
        {**LONG, "contextLength": 65536, "parallel": 8},
        {"name": "qwen2.5:7b", "contextLength": 2048, "parallel": 1},
    )
    (group,) = plan_deployment(wish(*models)).groups
    assert group.config.num_parallel < 8
    found = {model.name: model.parallel for model in group.config.models}
    assert found == {"llama3.1:8b": group.config.num_parallel, "qwen2.5:7b": 1}


def test_families_that_run_with_one_slot_ask_for_one() -> None:
    single = replace(shape_of("qwen3:8b"), architecture="qwen3vl")
    (group,) = plan_deployment(wish({"name": "eyes", "parallel": 8}, shapes={"eyes": single})).groups
    assert group.config.num_parallel == group.config.models[0].parallel == 1


def test_an_explicit_number_of_slots_is_kept_and_its_misfit_explained() -> None:
    (problem,) = plan_deployment(wish({**LLAMA, "contextLength": 65536}, tuning={"numParallel": 8})).problems
    assert problem.reason is Reason.DOES_NOT_FIT
    assert "spec.tuning.numParallel 3 would make it fit" in problem.message


def test_two_models_that_do_not_fit_together_get_a_server_each_where_there_are_gpus() -> None:
    models = ({**LLAMA, "parallel": 1}, {"name": "phi4:14b", "contextLength": 16384, "parallel": 1})
    small = replace(L4, usable=15 * GIB)
    alone = plan_deployment(wish(*models, inventory=small))
    assert [group.name for group in alone.groups] == ["g0"]
    assert [problem.reason for problem in alone.left_out] == [Reason.DOES_NOT_FIT]
    plan = plan_deployment(wish(*models, inventory=replace(small, servers=2)))
    assert layout(plan) == {"g0": ["phi4:14b"], "g1": ["llama3.1:8b"]}
    assert plan.left_out == ()


def test_groups_with_their_own_slots_and_caches_say_so_in_the_status() -> None:
    models = ({**LONG, "parallel": 4}, {"name": "phi4:14b", "contextLength": 8192, "parallel": 2})
    plan = plan_deployment(wish(*models, inventory=replace(L4, servers=2)))
    shown = {(one.name, one.value): one.groups for one in plan.effective}
    assert layout(plan) == {"g0": ["phi4:14b"], "g1": ["llama3.1:8b"]}
    assert shown["OLLAMA_NUM_PARALLEL", "2"] == ["g0"]
    assert shown["OLLAMA_NUM_PARALLEL", "4"] == ["g1"]
    assert shown["OLLAMA_KV_CACHE_TYPE", "q8_0"] == ["g1"]
    assert shown["OLLAMA_HOST", "127.0.0.1:11436"] == []


def test_however_many_groups_there_are_the_status_stays_within_its_bound() -> None:
    models = tuple({**LLAMA, "name": f"m{n}", "contextLength": 1024 + n} for n in range(40))
    shapes = {model["name"]: shape_of("llama3.1:8b") for model in models}
    plan = plan_deployment(wish(*models, shapes=shapes, inventory=replace(L4, servers=64)))
    assert len(plan.groups) > 10
    assert len(plan.effective) <= 256


def test_priority_decides_who_is_left_out_and_on_demand_models_share_what_is_left() -> None:
    models = (
        {**LLAMA, "name": "a", "model": "llama3.1:8b", "priority": 1},
        {"name": "b", "model": "phi4:14b", "contextLength": 4096, "priority": 9},
        {"name": "c", "model": "llama3.1:8b", "contextLength": 4096, "residency": "OnDemand", "priority": 5},
        {"name": "d", "model": "qwen2.5:32b", "contextLength": 4096, "residency": "OnDemand"},
    )
    plan = plan_deployment(wish(*models))
    assert layout(plan) == {"g0": ["b", "c", "a"]}
    assert [problem.message.split()[0] for problem in plan.left_out] == ["d"]
    tight = plan_deployment(wish(*models, inventory=replace(L4, usable=13 * GIB)))
    assert layout(tight) == {"g0": ["b"]}


def test_an_explicit_spread_is_honoured_and_a_needed_one_is_chosen() -> None:
    two = replace(L4, gpus=2)
    whole = plan_deployment(wish({**LLAMA, "parallel": 1}, inventory=two)).groups[0]
    assert (value(whole, "OLLAMA_SCHED_SPREAD"), whole.record.spread) == ("0", False)
    spread = plan_deployment(wish({**LLAMA, "parallel": 1}, inventory=two, tuning={"schedSpread": True})).groups[0]
    assert (value(spread, "OLLAMA_SCHED_SPREAD"), spread.record.spread) == ("1", True)
    # Ollama predicts less than 80 % of one small GPU, takes that one, and llama.cpp finds it too small.
    small, model = replace(two, usable=int(7.5 * GIB)), {**LLAMA, "contextLength": 9728, "parallel": 1}
    assert plan_deployment(wish(model, inventory=small, tuning={"schedSpread": False, "kvCacheType": "f16"})).problems
    found = plan_deployment(wish(model, inventory=small)).groups[0]
    assert (value(found, "OLLAMA_SCHED_SPREAD"), value(found, "OLLAMA_KV_CACHE_TYPE")) == ("1", "f16")
    assert why(found, "OLLAMA_SCHED_SPREAD") == "the models fit over all GPUs only"


def test_a_quantised_cache_is_counted_as_such() -> None:
    plain = plan_deployment(wish({**LONG, "parallel": 2})).groups[0]
    small = plan_deployment(wish({**LONG, "parallel": 2}, tuning={"kvCacheType": "q8_0"})).groups[0]
    saved = plain.planned["llama3.1:8b"] - small.planned["llama3.1:8b"]
    assert saved == pytest.approx(8 * GIB * (1 - 34 / 64), rel=0.02)


def test_without_known_gpus_nothing_is_sized_and_the_status_says_so() -> None:
    plan = plan_deployment(wish(LLAMA, inventory=None))
    assert plan.groups[0].planned == {}
    (found,) = [one for one in plan.effective if one.name == "gpuMemory"]
    assert found.value == "unknown"
    assert "nothing is sized" in found.reason


def test_nothing_new_is_planned_on_gpus_of_which_nothing_is_known_just_now() -> None:
    (problem,) = plan_deployment(wish(LLAMA, inventory=Silent(("b", "a", "c", "d")))).problems
    assert (problem.reason, problem.terminal) == (Reason.REPORT_STALE, False)
    assert "What is free on the GPUs of b, a, c and 1 more is not known" in problem.message


def test_a_header_survives_the_status() -> None:
    for name in catalogue.known():
        shape = shape_of(name)
        found = from_document(to_document(shape))
        assert sorted(map(repr, found.layers)) == sorted(map(repr, shape.layers))
        assert replace(found, layers=()) == replace(shape, layers=())


def test_the_batch_of_a_modelfile_is_paid_for_and_a_change_of_it_is_planned_for() -> None:
    def asked(**parameters: int) -> PlanRequest:
        return wish({**LLAMA, "parallel": 2, "modelfile": {"parameters": parameters}})

    plain, wide = plan_deployment(asked(temperature=1)), plan_deployment(asked(num_batch=8192))
    assert wide.groups[0].planned["llama3.1:8b"] > plain.groups[0].planned["llama3.1:8b"] + GIB
    later = asked(num_batch=8192)
    after = plan_deployment(replace(later, previous=previous(plain)))
    assert after.groups[0].planned == wide.groups[0].planned
    assert isinstance(later.survey, Survey)
    assert later.survey.asked == 1


def test_models_are_seated_in_the_order_in_which_sidecars_load_them() -> None:
    """The most important first, then the largest: beside a small one Ollama would not trust the large one to fit."""
    small = {"name": "a", "model": "llama3.2:1b", "contextLength": 2048, "parallel": 1}
    large = {"name": "b", "model": "qwen2.5:14b", "contextLength": 8192, "parallel": 1}
    assert layout(plan_deployment(wish(small, large))) == {"g0": ["b", "a"]}
    assert layout(plan_deployment(wish({**small, "priority": 1}, large))) == {"g0": ["a", "b"]}
    crowded = replace(L4, usable=14 * GIB)
    assert layout(plan_deployment(wish(small, large, inventory=crowded))) == {"g0": ["b", "a"]}
    (problem,) = plan_deployment(wish({**small, "priority": 1}, large, inventory=crowded)).left_out
    assert "would evict another model" in problem.message
