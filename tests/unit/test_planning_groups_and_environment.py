"""From wishes to groups, environment and problems."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.quantities import parse_bytes, parse_quantity, seconds
from ollama_fleet.planning.request import ModelSetView
from ollama_fleet.planning.variables import objection
from ollama_fleet.planning.versions import Generation, Version
from tests.support.plans import GPU, L4, Survey, again, digest, environment, layout, request, sized, view


@pytest.mark.parametrize(
    ("profile", "parallel", "context", "queue"),
    [
        ("chat", "4", "8192", "128"),
        ("agent", "6", "16384", "2048"),
        ("batch", "8", "8192", "4096"),
        ("embedding", "1", "2048", "512"),
    ],
)
def test_a_profile_gives_the_defaults(profile: str, parallel: str, context: str, queue: str) -> None:
    found = environment(plan_deployment(request(view({"name": "a"}), profile=profile)))
    assert found["OLLAMA_NUM_PARALLEL"] == (parallel, "computed")
    assert found["OLLAMA_CONTEXT_LENGTH"] == (context, "computed")
    assert found["OLLAMA_MAX_QUEUE"] == (queue, "computed")


def test_an_explicit_value_wins_and_says_so() -> None:
    tuning = {"numParallel": 3, "contextLength": 512, "maxQueue": 7, "loadTimeout": "3m", "keepAlive": "1h"}
    found = environment(plan_deployment(request(view({"name": "a"}), tuning=tuning)))
    expected = {
        "OLLAMA_NUM_PARALLEL": "3",
        "OLLAMA_CONTEXT_LENGTH": "512",
        "OLLAMA_MAX_QUEUE": "7",
        "OLLAMA_LOAD_TIMEOUT": "3m",
        "OLLAMA_KEEP_ALIVE": "1h",
    }
    assert {name: found[name] for name in expected} == {name: (value, "spec") for name, value in expected.items()}


def test_servers_are_always_closed_to_the_outside() -> None:
    found = environment(plan_deployment(request(view({"name": "a"}))))
    assert found["OLLAMA_HOST"][0] == "127.0.0.1:11436"
    assert found["OLLAMA_NOPRUNE"][0] == "1"
    assert found["OLLAMA_NO_CLOUD"][0] == "1"


def test_without_a_gpu_none_is_visible() -> None:
    assert environment(plan_deployment(request(view({"name": "a"}))))["NVIDIA_VISIBLE_DEVICES"][0] == "void"
    on_gpu = environment(plan_deployment(request(view({"name": "a"}), hardware=GPU)))
    assert "NVIDIA_VISIBLE_DEVICES" not in on_gpu


@pytest.mark.parametrize(
    ("version", "name", "value"),
    [("0.32.3", "LLAMA_ARG_FIT_TARGET", "2048"), ("0.24.0", "OLLAMA_GPU_OVERHEAD", "2147483648")],
)
def test_room_on_the_gpu_is_asked_for_as_each_generation_reads_it(version: str, name: str, value: str) -> None:
    wish = request(view({"name": "a"}), hardware=GPU, tuning={"gpuOverhead": "2Gi"}, version=version)
    found = environment(plan_deployment(wish))
    other = {"LLAMA_ARG_FIT_TARGET", "OLLAMA_GPU_OVERHEAD"} - {name}
    assert found[name] == (value, "spec")
    assert not other & found.keys()


def test_the_prompt_cache_is_bounded_only_where_there_is_one() -> None:
    assert "LLAMA_ARG_CACHE_RAM" in environment(plan_deployment(request(view({"name": "a"}))))
    assert "LLAMA_ARG_CACHE_RAM" not in environment(plan_deployment(request(view({"name": "a"}), version="0.24.0")))


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("OLLAMA_NUM_GPU", "0.32.3", "knows no variable OLLAMA_NUM_GPU"),
        ("OLLAMA_NEW_ENGINE", "0.32.3", "is not read from Ollama 0.30.0 on"),
        ("OLLAMA_NEW_ENGINE", "0.24.0", None),
        ("LLAMA_ARG_THREADS", "0.24.0", "is read from Ollama 0.30.0 on"),
        ("LLAMA_ARG_THREADS", "0.32.3", None),
        ("OLLAMA_HOST", "0.32.3", "belongs to the operator"),
        ("OLLAMA_NUM_PARALLEL", "0.32.3", "set spec.tuning.numParallel instead"),
        ("OLLAMA_DEBUG", "0.32.3", None),
        ("CUDA_VISIBLE_DEVICES", "0.32.3", None),
        ("HTTPS_PROXY", "0.24.0", None),
    ],
)
def test_variables_are_checked_against_the_chosen_version(name: str, version: str, words: str | None) -> None:
    found = objection(name, Version.parse(version))
    assert found is None if words is None else found is not None and words in found


def test_an_unknown_variable_is_a_problem_and_not_silence() -> None:
    # Past the API server's own rules, e.g. for a version that came later than the object.
    plan = plan_deployment(
        request(view({"name": "a"}), tuning={"extraEnv": [{"name": "OLLAMA_NUM_GPU", "value": "1"}]})
    )
    assert [problem.reason for problem in plan.problems] == [Reason.UNKNOWN_VARIABLE]
    assert plan.groups == ()


def test_a_version_below_the_floor_is_named() -> None:
    (problem,) = plan_deployment(request(view({"name": "a"}), version="0.20.2")).problems
    assert problem.reason is Reason.UNSUPPORTED_VERSION
    assert "0.20.2" in problem.message
    assert "0.20.3" in problem.message


def test_generations_are_told_apart_by_version() -> None:
    assert Version.parse("0.24.0").generation is Generation.IN_PROCESS
    assert Version.parse("0.30.0").generation is Generation.LLAMA_SERVER
    assert Version.parse("0.9.10") < Version.parse("0.10.0")


def test_a_version_runs_by_its_digest_where_it_is_known_and_says_so_where_not() -> None:
    digests = {"0.32.3": "sha256:" + "d" * 64}
    known = plan_deployment(request(view({"name": "a"}), digests=digests))
    assert known.groups[0].image == f"ollama/ollama@{digests['0.32.3']}"
    assert not [value for value in known.effective if value.name == "image"]
    by_tag = plan_deployment(request(view({"name": "a"}), digests=digests, version="0.31.0"))
    assert by_tag.groups[0].image == "ollama/ollama:0.31.0"
    (value,) = [value for value in by_tag.effective if value.name == "image"]
    assert "no digest is known" in value.reason


def test_a_missing_model_set_is_a_problem() -> None:
    (problem,) = plan_deployment(request(None)).problems
    assert problem.reason is Reason.MODEL_SET_MISSING
    assert "missing" in problem.message


def test_the_same_name_with_other_content_is_a_conflict_and_the_same_content_is_not() -> None:
    one = view({"name": "chat"}, name="one")
    same = view({"name": "chat"}, name="two")
    other = view({"name": "Chat", "contextLength": 64}, name="two")
    assert plan_deployment(request(one, same)).problems == ()
    (problem,) = plan_deployment(request(one, other)).left_out
    assert problem.reason is Reason.MODEL_CONFLICT
    assert "one" in problem.message
    assert "two" in problem.message


def test_of_two_with_the_same_name_the_first_is_served() -> None:
    small, large = {"name": "chat", "model": "llama3.2:1b"}, {"name": "chat", "model": "llama3.1:8b"}
    one, two = sized(small, name="one"), sized(large, name="two")
    for first, second in ((one, two), (two, one)):
        alone = replace(request(first, hardware=GPU), survey=Survey(L4))
        both = replace(request(first, second, hardware=GPU), survey=Survey(L4))
        plan = plan_deployment(both)
        assert plan.problems == ()
        assert plan.groups == plan_deployment(alone).groups
        assert f"that of {first.name} is served" in plan.left_out[0].message


def test_models_share_a_group_unless_they_would_evict_each_other() -> None:
    models = ({"name": "a", "contextLength": 512}, {"name": "b", "contextLength": 1024})
    apart = plan_deployment(request(view(*models, resolved={"a": "1", "b": "2"})))
    assert layout(apart) == {"g0": ["a", "b"]}
    same_weights = plan_deployment(request(view(*models, resolved={"a": "1", "b": "1"})))
    assert layout(same_weights) == {"g0": ["a"], "g1": ["b"]}


@pytest.mark.parametrize("hardware", [None, GPU])
def test_manifests_over_the_same_file_of_weights_evict_each_other_too(hardware: dict[str, Any] | None) -> None:
    """They may differ in their template only: Ollama runs one process per file."""
    models = ({"name": "sales", "contextLength": 512}, {"name": "support", "contextLength": 1024})

    def found(*weights: str | None) -> ModelSetView:
        seen = view(*models, resolved={"sales": "1", "support": "2"})
        known = [
            model.model_copy(update={"weights": letter and digest(letter)})
            for model, letter in zip(seen.status.models, weights, strict=True)
        ]
        return replace(seen, status=seen.status.model_copy(update={"models": known}))

    survey = Survey(replace(L4, servers=2))
    for weights, apart in {("a", "a"): True, ("a", "b"): False, ("a", None): False, (None, None): False}.items():
        plan = plan_deployment(replace(request(found(*weights), hardware=hardware), survey=survey))
        assert (len(plan.groups) == 2) is apart


def test_the_order_is_by_priority_then_name() -> None:
    models = ({"name": "b"}, {"name": "a"}, {"name": "z", "priority": 5})
    assert layout(plan_deployment(request(view(*models))))["g0"] == ["z", "a", "b"]


def test_a_newcomer_moves_nobody() -> None:
    before = plan_deployment(request(view({"name": "b", "contextLength": 64})))
    after = again(before, request(view({"name": "a", "contextLength": 128}, {"name": "b", "contextLength": 64})))
    assert layout(after) == {"g0": ["b"], "g1": ["a"]}


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from([64, 128])), unique_by=lambda pair: pair[0], min_size=1
    )
)
def test_plans_do_not_depend_on_order_and_no_two_models_of_a_group_clash(pairs: list[tuple[str, int]]) -> None:
    models: list[dict[str, Any]] = [{"name": name, "contextLength": context} for name, context in pairs]
    plan = plan_deployment(request(view(*models)))
    assert plan == plan_deployment(request(view(*reversed(models))))
    assert sorted(name for names in layout(plan).values() for name in names) == sorted(name for name, _ in pairs)
    for group in plan.groups:
        assert len({model.context_length for model in group.config.models}) == 1


def test_suspended_and_zero_replicas_keep_the_group() -> None:
    assert plan_deployment(request(view({"name": "a"}), suspend=True, replicas=3)).groups[0].replicas == 0
    assert plan_deployment(request(view({"name": "a"}), replicas=0)).groups[0].replicas == 0


@pytest.mark.parametrize(("text", "count"), [("24Gi", 24 * 2**30), ("1k", 1000), ("1.5Gi", 3 * 2**29), ("7", 7)])
def test_quantities(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "-1", "1X"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        parse_quantity(text)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("1h30m", 5400), ("1.5m", 90), ("250ms", 0.25)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5", "5 s", "s", "5x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)


def test_a_timeout_below_a_second_is_one_second() -> None:
    plan = plan_deployment(request(view({"name": "a"}), readiness={"timeout": "400ms"}))
    assert plan.groups[0].config.load_timeout_seconds == 1
