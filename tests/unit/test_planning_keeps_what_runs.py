"""Servers that run go on as they are: whatever nodes do, whatever a newer operator would compute, whoever joins."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.group import GroupRecord
from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.names import Owner
from ollama_fleet.manifests.render import RECORD_KEY, config_map, deployment
from ollama_fleet.manifests.rollout import started
from ollama_fleet.planning.footprints import calibration_key
from ollama_fleet.planning.inventory import Inventory, Silent, usable
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import PlanRequest, PreviousGroup
from ollama_fleet.sizing.calibration import Calibration
from tests.support.plans import GIB, L4, Survey, again, layout, previous, shape_of, slots, value, wish

LLAMA = {"name": "llama3.1:8b", "contextLength": 8192}
HEAVY = {**LLAMA, "contextLength": 32768, "parallel": 8}
QWEN = {"name": "qwen2.5:7b", "contextLength": 8192}
OWNER = Owner("ns", "chat", "uid")
CACHE = {"storage": {"cache": {"type": "Node"}}}
"""With it, models that join do not restart servers."""


def template(group: Group, live: dict[str, Any] | None = None) -> str:
    found = deployment(group, owner=OWNER, live=live)
    return json.dumps(found["spec"]["template"], sort_keys=True)


def restarts(before: Plan, after: Plan) -> list[str]:
    """Groups whose pods a Deployment's controller would replace."""
    running = {group.name: deployment(group, owner=OWNER, live=None) for group in before.groups}
    return [
        group.name
        for group in after.groups
        if group.name in running
        and template(group, running[group.name]) != json.dumps(running[group.name]["spec"]["template"], sort_keys=True)
    ]


@pytest.mark.parametrize("inventory", [replace(L4, usable=80 * GIB), replace(L4, usable=8 * GIB), None, Silent(("n",))])
def test_what_happens_to_nodes_changes_no_running_plan_and_is_not_even_looked_at(inventory: Any) -> None:
    before = plan_deployment(wish(HEAVY))
    survey = Survey(inventory)
    after = plan_deployment(replace(wish(HEAVY), previous=previous(before), survey=survey))
    assert after == before
    assert survey.asked == 0


def test_nodes_that_show_their_gpus_later_change_no_running_plan() -> None:
    blind = plan_deployment(wish(HEAVY, inventory=None))
    assert slots(blind) == {"g0": 8}
    seen = again(blind, wish(HEAVY))
    assert seen == blind
    assert seen.groups[0].planned == {}


def test_a_left_out_newcomer_leaves_the_others_as_they_are_however_nodes_change() -> None:
    before = plan_deployment(wish(HEAVY))
    asked = {"name": "qwen2.5:32b", "contextLength": 4096, "parallel": 1}
    for size in (22, 23, 16, 8):
        after = again(before, wish(HEAVY, asked, inventory=replace(L4, usable=size * GIB)))
        assert layout(after) == {"g0": ["llama3.1:8b"]}
        assert slots(after) == slots(before)
        assert [problem.message.split()[0] for problem in after.left_out] == ["qwen2.5:32b"]
        assert restarts(before, after) == []


def test_a_newcomer_takes_a_running_server_as_it_is() -> None:
    before = plan_deployment(wish(LLAMA, **CACHE))
    after = again(before, wish(LLAMA, {**QWEN, "parallel": 2}, **CACHE))
    assert layout(after) == {"g0": ["llama3.1:8b", "qwen2.5:7b"]}
    assert {model.name: model.parallel for model in after.groups[0].config.models} == {
        "llama3.1:8b": 4,
        "qwen2.5:7b": 2,
    }
    assert restarts(before, after) == []


def test_slots_are_given_up_only_when_a_newcomer_would_be_left_out_otherwise() -> None:
    before = plan_deployment(wish({**HEAVY, "parallel": 4}, **CACHE))
    assert slots(before) == {"g0": 4}
    models = ({**HEAVY, "parallel": 4}, {**QWEN, "parallel": 1})
    crowded = again(before, wish(*models, **CACHE))
    assert layout(crowded) == {"g0": ["llama3.1:8b", "qwen2.5:7b"]}
    assert slots(crowded)["g0"] < 4
    assert restarts(before, crowded) == ["g0"]
    roomy = again(before, wish(*models, inventory=replace(L4, servers=2), **CACHE))
    assert layout(roomy) == {"g0": ["llama3.1:8b"], "g1": ["qwen2.5:7b"]}
    assert restarts(before, roomy) == []


def test_a_newcomer_that_asks_for_more_slots_gets_a_server_of_its_own_where_there_is_one() -> None:
    before = plan_deployment(wish({**LLAMA, "parallel": 1}, **CACHE))
    models = ({**LLAMA, "parallel": 1}, {**QWEN, "parallel": 6})
    apart = again(before, wish(*models, inventory=replace(L4, servers=2), **CACHE))
    assert (slots(apart), restarts(before, apart)) == ({"g0": 1, "g1": 6}, [])
    together = again(before, wish(*models, **CACHE))
    assert (slots(together), restarts(before, together)) == ({"g0": 6}, ["g0"])


def test_models_that_leave_restart_nobody_and_their_group_keeps_its_slots() -> None:
    both = plan_deployment(wish({**HEAVY, "parallel": 4}, {**QWEN, "parallel": 1}, **CACHE))
    after = again(both, wish({**HEAVY, "parallel": 4}, **CACHE))
    assert slots(after) == slots(both)
    assert restarts(both, after) == []


def test_who_changes_a_model_s_own_wish_gets_what_fits_now() -> None:
    before = plan_deployment(wish(HEAVY))
    shorter = again(before, wish({**HEAVY, "contextLength": 8192}))
    assert slots(before)["g0"] < slots(shorter)["g0"] == 8
    longer = again(before, wish({**HEAVY, "contextLength": 65536}))
    assert 0 < slots(longer)["g0"] < slots(before)["g0"]
    fewer = again(before, wish({**HEAVY, "parallel": 2}))
    assert slots(fewer) == slots(before)
    assert fewer.groups[0].config.models[0].parallel == 2
    assert restarts(before, fewer) == []


def test_a_tag_that_moves_to_weights_of_another_size_keeps_the_slots_that_fit() -> None:
    before = plan_deployment(wish({**LLAMA, "name": "chat"}, shapes={"chat": shape_of("llama3.1:8b")}))
    larger = wish({**LLAMA, "name": "chat"}, shapes={"chat": shape_of("phi4:14b")})
    view = larger.model_sets["models"]
    assert view is not None
    moved = [model.model_copy(update={"digest": "sha256:" + "9" * 64}) for model in view.status.models]
    status = view.status.model_copy(update={"models": moved})
    after = again(before, replace(larger, model_sets={"models": replace(view, status=status)}))
    assert slots(after) == slots(before) == {"g0": 4}
    assert after.groups[0].config.models[0].manifest_digest == "sha256:" + "9" * 64


def test_a_change_with_which_a_running_model_would_lose_its_place_changes_nothing() -> None:
    before = plan_deployment(wish({**LLAMA, "parallel": 1}))
    after = again(before, wish({**LLAMA, "contextLength": 131072, "parallel": 1}, tuning={"kvCacheType": "f16"}))
    assert after.groups == ()
    assert after.problems[0].reason is Reason.DOES_NOT_FIT


def test_nor_does_one_that_would_leave_its_neighbour_running() -> None:
    code = {"name": "code", "model": "qwen2.5:7b", "contextLength": 4096, "parallel": 1}
    before = plan_deployment(wish({**LLAMA, "parallel": 1}, code))
    assert layout(before) == {"g0": ["llama3.1:8b", "code"]}
    after = again(before, wish({**LLAMA, "parallel": 1}, {**code, "model": "qwen2.5:32b", "contextLength": 32768}))
    assert after.groups == ()
    assert [(problem.reason, problem.message.split()[0]) for problem in after.problems] == [
        (Reason.DOES_NOT_FIT, "code")
    ]


def test_an_explicit_choice_starts_servers_anew_and_so_does_its_end() -> None:
    before = plan_deployment(wish(LLAMA))
    two = again(before, wish(LLAMA, tuning={"numParallel": 2}))
    assert (slots(two), restarts(before, two)) == ({"g0": 2}, ["g0"])
    free = again(two, wish(LLAMA))
    assert (slots(free), restarts(two, free)) == ({"g0": 4}, ["g0"])
    profile = again(before, wish(LLAMA, profile="agent"))
    assert value(profile.groups[0], "OLLAMA_MAX_QUEUE") == "2048"


def test_host_memory_restarts_servers_when_it_is_chosen_or_outgrown_and_not_when_models_come() -> None:
    before = plan_deployment(wish(LLAMA, **CACHE))
    chosen = again(before, wish(LLAMA, tuning={"hostMemory": "30Gi"}, **CACHE))
    assert restarts(before, chosen) == ["g0"]
    one = again(before, wish(LLAMA, {**QWEN, "residency": "OnDemand"}, **CACHE))
    assert (restarts(before, one), one.groups[0].memory) == ([], before.groups[0].memory)
    many = [{"name": f"m{n}", "contextLength": 1024, "residency": "OnDemand"} for n in range(6)]
    shapes = {"llama3.1:8b": shape_of("llama3.1:8b"), **{f"m{n}": shape_of("qwen2.5:7b") for n in range(6)}}
    grown = again(before, wish(LLAMA, *many, shapes=shapes, **CACHE))
    assert layout(grown)["g0"][0] == "llama3.1:8b"
    assert restarts(before, grown) == ["g0"]
    assert grown.groups[0].memory.limit > before.groups[0].memory.limit


def test_an_upgraded_operator_that_computes_other_values_restarts_nobody() -> None:
    """What runs is as an older operator started it: without variables that this one computes, with another value."""
    before = plan_deployment(wish(LLAMA))
    (group,) = before.groups
    old = [one for one in group.record.environment if one.name not in {"LLAMA_ARG_FIT_TARGET", "OLLAMA_KV_CACHE_TYPE"}]
    old = [one.model_copy(update={"value": "512"}) if one.name == "OLLAMA_MAX_QUEUE" else one for one in old]
    record = group.record.model_copy(update={"environment": tuple(old), "memory_request": 0, "memory_limit": 0})
    (after,) = plan_deployment(
        replace(wish(LLAMA), previous=(PreviousGroup("g0", group.config, record=record),))
    ).groups
    assert value(after, "OLLAMA_MAX_QUEUE") == "512"
    assert {setting.name for setting in after.environment} == {one.name for one in old}
    assert after.memory.request == 0
    edited = wish(LLAMA, tuning={"loadTimeout": "20m"})
    (anew,) = plan_deployment(replace(edited, previous=(PreviousGroup("g0", group.config, record=record),))).groups
    assert value(anew, "OLLAMA_MAX_QUEUE") == "128"
    assert anew.memory.request > 0


def test_servers_of_an_operator_that_kept_no_records_go_on_too() -> None:
    """All that is known of them is the pod template that travels with their Deployment."""
    (group,) = plan_deployment(wish(LLAMA)).groups
    plain = replace(
        group,
        environment=tuple(
            replace(setting, value="512") if setting.name == "OLLAMA_MAX_QUEUE" else setting
            for setting in group.environment
            if setting.name not in {"OLLAMA_KV_CACHE_TYPE", "LLAMA_ARG_FIT_TARGET", "OLLAMA_FLASH_ATTENTION"}
        ),
        memory=replace(group.memory, request=0, limit=0),
    )
    live = deployment(plain, owner=OWNER, live=None)
    # Somebody's edit of the live object is none of its history.
    live["spec"]["template"]["spec"]["containers"][0]["env"] = []
    runs = PreviousGroup("g0", group.config, record=started(live))
    (after,) = plan_deployment(replace(wish(LLAMA), previous=(runs,))).groups
    assert deployment(after, owner=OWNER, live=live)["spec"]["template"] == json.loads(
        live["metadata"]["annotations"]["ollamafleet.io/template"]
    )
    kept = GroupRecord.model_validate_json(config_map(after, owner=OWNER)["data"][RECORD_KEY])
    assert kept.choices
    (edited,) = plan_deployment(replace(wish(LLAMA, tuning={"maxQueue": 99}), previous=(runs,))).groups
    assert value(edited, "OLLAMA_MAX_QUEUE") == "99"
    assert value(edited, "OLLAMA_KV_CACHE_TYPE") == "f16"


def test_a_newcomer_moves_nobody_unless_it_must_and_then_no_more_than_one() -> None:
    """Two servers with room for a third only if one of the smaller ones makes way."""
    names = {"a": "qwen2.5:14b", "b": "llama3.1:8b", "c": "qwen2.5:7b"}
    shapes = {name: shape_of(model) for name, model in names.items()}
    models = [{"name": name, "contextLength": 4096, "parallel": 1} for name in names]
    two = replace(L4, servers=2, usable=16 * GIB)
    before = plan_deployment(wish(*models, shapes=shapes, inventory=two))
    assert before.left_out == ()
    home = {model: group for group, members in layout(before).items() for model in members}
    shapes["new"] = shape_of("qwen2.5:7b")
    after = again(
        before, wish(*models, {"name": "new", "contextLength": 4096, "parallel": 1}, shapes=shapes, inventory=two)
    )
    moved = [m for group, members in layout(after).items() for m in members if home.get(m, group) != group]
    assert len(moved) <= 1
    assert set(home) <= {model for members in layout(after).values() for model in members}
    roomy = again(
        before, wish(*models, {"name": "new", "contextLength": 4096}, shapes=shapes, inventory=replace(two, servers=3))
    )
    assert {m: group for group, members in layout(roomy).items() for m in members if m != "new"} == home


def test_zero_replicas_and_a_suspended_deployment_change_no_group() -> None:
    before = plan_deployment(wish(LLAMA, QWEN))
    for spec in ({"replicas": 0}, {"suspend": True}):
        after = again(before, wish(LLAMA, QWEN, **spec))
        assert [group.replicas for group in after.groups] == [0] * len(before.groups)
        assert [group.config for group in after.groups] == [group.config for group in before.groups]
        assert restarts(before, after) == []


def test_measured_loads_change_no_running_plan() -> None:
    before = plan_deployment(wish(HEAVY))
    (group,) = before.groups
    key = calibration_key(group.config.models[0], group.options, parallel=group.config.num_parallel, product="")
    after = again(before, replace(wish(HEAVY), measured=Calibration().record(key, 40 * GIB)))
    assert slots(after) == slots(before)
    assert after.groups[0].planned["llama3.1:8b"] > 39 * GIB


def test_for_a_model_that_waits_nothing_that_runs_is_touched() -> None:
    """An edit may move one model; nodes that change the wish for nobody may move none."""
    models = [{"name": name, "contextLength": 4096, "parallel": 1} for name in ("a", "b", "large")]
    shapes = {"a": shape_of("qwen2.5:7b"), "b": shape_of("qwen2.5:7b"), "large": shape_of("qwen2.5:14b")}
    small = replace(L4, servers=2, usable=7 * GIB)
    wide = replace(small, usable=13 * GIB)
    before = plan_deployment(wish(*models, shapes=shapes, inventory=small))
    assert layout(before) == {"g0": ["a"], "g1": ["b"]}
    assert [problem.message.split()[0] for problem in before.left_out] == ["large"]
    assert layout(again(before, wish(*models, shapes=shapes, inventory=wide))) == layout(before)
    models[2]["priority"] = 9
    edited = again(before, wish(*models, shapes=shapes, inventory=wide))
    assert sorted(layout(edited).values()) == [["a", "b"], ["large"]]
    assert edited.left_out == ()


def test_a_model_whose_load_found_no_room_is_planned_with_fewer_slots() -> None:
    before = plan_deployment(wish({**LLAMA, "parallel": 4}, tuning={"kvCacheType": "f16"}))
    asked = wish({**LLAMA, "parallel": 4}, tuning={"kvCacheType": "f16"})
    assert slots(before) == {"g0": 4}
    for expected in (3, 2, 1):
        (runs,) = previous(before)
        before = plan_deployment(replace(asked, previous=(replace(runs, starved=frozenset({LLAMA["name"]})),)))
        assert slots(before) == {"g0": expected}
        assert again(before, asked) == before
    (runs,) = previous(before)
    starved = plan_deployment(replace(asked, previous=(replace(runs, starved=frozenset({LLAMA["name"]})),)))
    assert starved.groups == ()
    assert "found too little memory on every server" in starved.problems[0].message


H100 = Inventory(1, usable(81559), 1, "test", product="NVIDIA-H100-80GB-HBM3")
LARGE = {"name": "qwen2.5:32b", "contextLength": 16384, "parallel": 4}


def on_card(inventory: Inventory = H100, *, gpu: dict[str, Any] | None = None, **spec: Any) -> PlanRequest:
    hardware = {"gpu": {"count": 1, "products": ["NVIDIA-H100-80GB-HBM3"], **(gpu or {})}}
    return wish(LARGE, inventory=inventory, hardware=hardware, **spec)


@pytest.mark.parametrize(
    ("gpu", "spec"),
    [
        ({"products": ["Tesla-T4"]}, {}),
        ({"products": None, "minMemory": "14Gi"}, {}),
        ({"products": None}, {"placement": {"nodeSelector": {"pool": "small"}}}),
    ],
)
def test_servers_that_shall_run_on_other_gpus_are_planned_for_them(gpu: dict[str, Any], spec: dict[str, Any]) -> None:
    """They start anew there: what did not fit would crash, or compute on the CPU."""
    before = plan_deployment(on_card())
    small = replace(H100, usable=usable(15360), product="Tesla-T4")
    after = again(before, on_card(small, gpu=gpu, **spec))
    assert [problem.reason for problem in after.problems] == [Reason.DOES_NOT_FIT]
    middle = again(before, on_card(replace(small, usable=usable(46068)), gpu=gpu, **spec))
    assert middle.groups[0].record.usable == usable(46068)
    assert value(middle.groups[0], "OLLAMA_KV_CACHE_TYPE") == "f16"


@pytest.mark.parametrize("tuning", [{"flashAttention": False}, {"gpuOverhead": "8Gi"}])
def test_a_choice_that_takes_memory_is_planned_for(tuning: dict[str, Any]) -> None:
    card = replace(H100, usable=38 * GIB)
    before, asked = plan_deployment(on_card(card)), on_card(card, tuning=tuning)
    after, anew = again(before, asked), plan_deployment(asked)
    assert (slots(after), after.groups[0].options) == (slots(anew), anew.groups[0].options)
    assert (slots(after), after.groups[0].options.kv_type) != (slots(before), "f16")


@pytest.mark.parametrize(
    ("gpu", "spec"),
    [
        ({"products": ["NVIDIA H100 80GB HBM3"]}, {}),
        ({}, {"tuning": {"flashAttention": True}}),
        ({}, {"tuning": {"keepAlive": "1h"}}),
        ({}, {"placement": {"tolerations": [{"key": "night", "operator": "Exists"}]}}),
    ],
)
def test_an_edit_that_changes_no_memory_looks_at_no_node(gpu: dict[str, Any], spec: dict[str, Any]) -> None:
    before, asked = plan_deployment(on_card()), on_card(gpu=gpu, **spec)
    after = again(before, asked)
    assert slots(after) == slots(before)
    assert isinstance(asked.survey, Survey)
    assert asked.survey.asked == 0


def test_a_record_of_an_earlier_version_stands_for_the_gpus_that_are_asked_for() -> None:
    before = plan_deployment(on_card())
    (group,) = previous(before)
    older = replace(group, record=group.record.model_copy(update={"sized_for": ""}))
    small = replace(H100, usable=usable(15360), product="Tesla-T4")
    after = plan_deployment(replace(on_card(small), previous=(older,)))
    assert after == before
