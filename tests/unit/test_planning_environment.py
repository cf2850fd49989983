"""What servers are started with, computed from profile, models and GPUs, each value with its reason."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_fleet.api.group import WAITING_PER_SLOT
from ollama_fleet.api.reasons import Reason
from ollama_fleet.manifests.containers import ollama
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.sidecar import slots as sidecar_slots
from tests.support.plans import GIB, GPU, L4, environment, request, shape_of, sized, value, view, why, wish

MIB = 2**20
LLAMA = {"name": "llama3.1:8b", "contextLength": 8192}
COMPUTED = {
    "LLAMA_ARG_CACHE_RAM",
    "LLAMA_ARG_FIT_TARGET",
    "OLLAMA_CONTEXT_LENGTH",
    "OLLAMA_FLASH_ATTENTION",
    "OLLAMA_KEEP_ALIVE",
    "OLLAMA_KV_CACHE_TYPE",
    "OLLAMA_LOAD_TIMEOUT",
    "OLLAMA_MAX_LOADED_MODELS",
    "OLLAMA_MAX_QUEUE",
    "OLLAMA_NUM_PARALLEL",
    "OLLAMA_SCHED_SPREAD",
}


def planned(*models: dict[str, Any], **spec: Any) -> Group:
    (group,) = plan_deployment(wish(*models, **spec)).groups
    return group


def test_every_variable_that_matters_is_computed_and_says_why() -> None:
    group = planned(LLAMA, inventory=replace(L4, gpus=2))
    found = {setting.name: setting for setting in group.environment if setting.source == "computed"}
    assert set(found) == COMPUTED
    assert all(setting.reason for setting in group.environment)
    older = planned(LLAMA, inventory=replace(L4, gpus=2), version="0.24.0")
    names = {setting.name for setting in older.environment if setting.source == "computed"}
    assert names == COMPUTED - {"LLAMA_ARG_CACHE_RAM", "LLAMA_ARG_FIT_TARGET"} | {"OLLAMA_GPU_OVERHEAD"}


def test_an_explicit_value_wins_over_each_computed_one() -> None:
    tuning = {
        "numParallel": 3,
        "contextLength": 512,
        "kvCacheType": "q8_0",
        "flashAttention": True,
        "maxLoadedModels": 2,
        "keepAlive": "1h",
        "maxQueue": 7,
        "schedSpread": True,
        "gpuOverhead": "2Gi",
        "loadTimeout": "3m",
        "hostMemory": "20Gi",
        "extraEnv": [{"name": "LLAMA_ARG_CACHE_RAM", "value": "64"}],
    }
    group = planned({"name": "llama3.1:8b"}, inventory=replace(L4, gpus=2), tuning=tuning)
    assert {setting.source for setting in group.environment if setting.name in COMPUTED} == {"spec"}
    assert value(group, "LLAMA_ARG_FIT_TARGET") == "2048"
    assert value(group, "LLAMA_ARG_CACHE_RAM") == "64"
    assert (group.memory.request, group.memory.limit) == (20 * GIB, 20 * GIB)


def test_the_queue_of_ollama_only_bounds_who_waits_for_a_load() -> None:
    """What the sidecar lets through at once must find a place, however many models there are."""
    assert value(planned(LLAMA), "OLLAMA_MAX_QUEUE") == "128"
    many = tuple({"name": f"m{n}", "residency": "OnDemand"} for n in range(40))
    group = planned(*many, shapes={model["name"]: shape_of("llama3.2:1b") for model in many})
    assert int(value(group, "OLLAMA_MAX_QUEUE")) >= sum(model.parallel for model in group.config.models) == 160
    assert f"{WAITING_PER_SLOT} more wait there per slot" in why(group, "OLLAMA_MAX_QUEUE")
    assert sidecar_slots.WAITING_PER_SLOT == WAITING_PER_SLOT


def test_models_that_join_find_the_count_of_loaded_ones_high_enough() -> None:
    assert value(planned(LLAMA), "OLLAMA_MAX_LOADED_MODELS") == "8"
    many = tuple({"name": f"m{n}", "residency": "OnDemand"} for n in range(9))
    group = planned(*many, shapes={model["name"]: shape_of("llama3.2:1b") for model in many})
    assert value(group, "OLLAMA_MAX_LOADED_MODELS") == "16"


@pytest.mark.parametrize(("gigabytes", "minutes", "seconds"), [(5, "10m", 600), (43, "15m", 860), (400, "134m", 8000)])
def test_large_models_may_take_longer_to_load(gigabytes: int, minutes: str, seconds: int) -> None:
    one = view({"name": "a"})
    status = one.status.model_copy(
        update={"models": [m.model_copy(update={"size": gigabytes * 10**9}) for m in one.status.models]}
    )
    (group,) = plan_deployment(request(replace(one, status=status), hardware=GPU)).groups
    assert value(group, "OLLAMA_LOAD_TIMEOUT") == minutes
    assert group.config.load_timeout_seconds == seconds
    (short,) = plan_deployment(request(replace(one, status=status), hardware=GPU, readiness={"timeout": "90s"})).groups
    assert short.config.load_timeout_seconds == 90


def test_models_that_come_and_go_leave_memory_when_nobody_asks_for_them() -> None:
    assert value(planned(LLAMA), "OLLAMA_KEEP_ALIVE") == "-1"
    assert value(planned({**LLAMA, "residency": "OnDemand"}), "OLLAMA_KEEP_ALIVE") == "5m"


def test_flash_attention_is_left_to_ollama_where_cuda_has_no_kernel_for_the_heads() -> None:
    """Switched on, such attention would run on the CPU in silence; automatic, it is switched off."""
    llama = shape_of("llama3.1:8b")
    odd = replace(llama, layers=tuple(replace(layer, key_length=104, value_length=104) for layer in llama.layers))
    plain = {"kvCacheType": "f16"}
    assert value(planned(LLAMA, tuning=plain), "OLLAMA_FLASH_ATTENTION") == "1"
    names = {s.name for s in planned(LLAMA, shapes={"llama3.1:8b": odd}, tuning=plain).environment}
    assert "OLLAMA_FLASH_ATTENTION" not in names
    amd = {"gpu": {"count": 1, "resourceName": "amd.com/gpu"}}
    assert "OLLAMA_FLASH_ATTENTION" not in {s.name for s in planned(LLAMA, hardware=amd, tuning=plain).environment}
    older = planned(LLAMA, shapes={"llama3.1:8b": odd}, tuning=plain, version="0.24.0")
    assert value(older, "OLLAMA_FLASH_ATTENTION") == "1"


def test_the_margin_is_pinned_unless_ollama_widens_it_for_a_projector() -> None:
    assert value(planned(LLAMA), "LLAMA_ARG_FIT_TARGET") == "1024"
    eyes = shape_of("gemma3:12b").with_projector(800 * MIB)
    group = planned({"name": "eyes", "contextLength": 2048}, shapes={"eyes": eyes})
    assert "LLAMA_ARG_FIT_TARGET" not in {setting.name for setting in group.environment}


def test_up_to_0_24_an_explicit_margin_comes_on_top_of_its_own() -> None:
    tight = replace(L4, usable=7 * GIB)
    model = {**LLAMA, "parallel": 1, "contextLength": 4096}
    assert plan_deployment(wish(model, inventory=tight, version="0.24.0")).problems == ()
    asked = wish(model, inventory=tight, version="0.24.0", tuning={"gpuOverhead": "1Gi", "kvCacheType": "f16"})
    assert plan_deployment(asked).problems[0].reason is Reason.DOES_NOT_FIT


@pytest.mark.parametrize(
    ("profile", "context", "cache"),
    [("chat", 1024, 512), ("chat", 8192, 1024), ("agent", 16384, 4096), ("batch", 512, 0)],
)
def test_the_prompt_cache_holds_as_many_conversations_as_there_are_slots(
    profile: str, context: int, cache: int
) -> None:
    model = {"name": "llama3.1:8b", "contextLength": context}
    assert value(planned(model, profile=profile), "LLAMA_ARG_CACHE_RAM") == str(cache)


def test_on_cores_prompts_get_a_small_part_of_the_memory() -> None:
    for memory, cache in (("1Gi", "128"), ("4Gi", "512"), ("64Gi", "512")):
        found = environment(
            plan_deployment(request(view({"name": "a"}), hardware={"cpu": {"cores": "1", "memory": memory}}))
        )
        assert found["LLAMA_ARG_CACHE_RAM"] == (cache, "computed")


def test_states_to_go_back_to_are_bounded_for_models_that_need_them() -> None:
    """Each slot of a model with windows keeps up to 32 of them on the host, of hundreds of MiB each."""
    group = planned({"name": "gemma3:12b", "contextLength": 32768, "parallel": 2})
    assert value(group, "LLAMA_ARG_CTX_CHECKPOINTS") == "6"
    assert "states to go back to" in group.memory.reason
    assert "LLAMA_ARG_CTX_CHECKPOINTS" not in {setting.name for setting in planned(LLAMA).environment}


def test_host_memory_counts_processes_embeddings_and_prompts_and_its_limit_the_files() -> None:
    group = planned(LLAMA)
    embeddings = shape_of("llama3.1:8b").weights.host
    expected = (256 + 768 + 1024) * MIB + embeddings
    assert 0 <= group.memory.request - expected < GIB // 4
    assert group.memory.limit >= group.memory.request + shape_of("llama3.1:8b").file_bytes
    resources = ollama(group)["resources"]
    assert resources["requests"] == {"memory": "2560Mi"}
    assert resources["limits"] == {"nvidia.com/gpu": "1", "memory": "7424Mi"}
    shown = {one.name: one.value for one in plan_deployment(wish(LLAMA)).effective}
    assert shown["hostMemory"] == "2560Mi, limit 7424Mi"


def test_on_cores_the_spec_says_how_much_memory_there_is() -> None:
    (group,) = plan_deployment(request(view({"name": "a"}))).groups
    assert ollama(group)["resources"] == {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}}


def test_embeddings_run_on_cores_unless_told_otherwise() -> None:
    asked = request(view({"name": "vectors"}), hardware=None, profile="embedding")
    wire = asked.spec.to_wire()
    del wire["hardware"]
    plan = plan_deployment(replace(asked, spec=type(asked.spec).model_validate(wire)))
    (group,) = plan.groups
    assert ollama(group)["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}
    (shown,) = [one for one in plan.effective if one.name == "hardware"]
    assert (shown.value, shown.source) == ("2 cores, 4Gi", "default")
    (other,) = plan_deployment(
        replace(asked, spec=type(asked.spec).model_validate({**wire, "profile": "chat"}))
    ).problems
    assert other.message == "spec.hardware: set exactly one of hardware.gpu and hardware.cpu"


def test_a_type_of_cache_that_the_version_ignores_is_refused_by_name() -> None:
    (problem,) = plan_deployment(wish(LLAMA, version="0.24.0", tuning={"kvCacheType": "q5_1"})).problems
    assert problem.reason is Reason.UNKNOWN_VARIABLE
    assert "OLLAMA_KV_CACHE_TYPE=q5_1 is ignored by Ollama 0.24.0" in problem.message
    group = planned(LLAMA, tuning={"kvCacheType": "q5_1"})
    assert "attention runs on the CPU" in why(group, "OLLAMA_KV_CACHE_TYPE")


def test_without_headers_what_does_not_depend_on_them_is_still_computed() -> None:
    (group,) = plan_deployment(request(view({"name": "a"}), hardware=GPU)).groups
    assert value(group, "LLAMA_ARG_CACHE_RAM") == "1024"
    assert group.memory.request > 0
    assert plan_deployment(request(sized(LLAMA), hardware=GPU)).groups[0].planned == {}
