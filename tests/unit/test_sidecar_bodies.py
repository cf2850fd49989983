"""The policy on request bodies."""

import json
from typing import Any

import pytest

from ollama_fleet.api.group import GroupModel
from ollama_fleet.sidecar.bodies import prepare
from ollama_fleet.sidecar.refusals import Refused
from ollama_fleet.sidecar.routes import find
from ollama_fleet.sidecar.served import Served


def model(name: str, digit: str, **fields: Any) -> GroupModel:
    digest = f"sha256:{digit * 64}"
    return GroupModel(name=name, registry="r", repository="library/x", manifest_digest=digest, **fields)


SERVED = Served(
    [
        model("chat", "0"),
        model("spare", "1", residency="OnDemand", keep_alive="10m"),
        model("chat-too", "0", residency="OnDemand", keep_alive="10m"),
    ]
)


def prepared(raw: str | bytes, path: str = "/api/chat") -> dict[str, Any]:
    route = find("POST", path)
    assert route is not None
    result: dict[str, Any] = json.loads(
        prepare(raw.encode() if isinstance(raw, str) else raw, route=route, served=SERVED).body
    )
    return result


@pytest.mark.parametrize(
    "raw",
    [
        '{"model": "chat", "MODEL": "other"}',
        '{"model": "chat", "model": "other"}',
        '{"model": "chat", "\u017ftream": true, "stream": false}',
        '{"model": "chat", "options": {"num_ctx": 1, "NUM_CTX": 2}}',
        '{"model": "chat", "options": {"seed": 1, "seed": 2}}',
        "[]",
        '{"model": 3}',
        '{"model": "chat", "x": 1e999}',
        '{"model": "chat", "x": NaN}',
        "[" * 100_000,
        b"\xff\xfe\xfd",
    ],
)
def test_what_two_parsers_could_read_in_two_ways_is_refused(raw: str | bytes) -> None:
    with pytest.raises(Refused) as refused:
        prepared(raw)
    assert refused.value.status == 400


def test_options_that_reload_a_model_are_stripped_in_any_case() -> None:
    wire = prepared(
        '{"Model": "CHAT:latest", "Options": {"Num_Ctx": 9, "num_gpu": 0, "draft_num_predict": 2, "seed": 1},'
        ' "shift": false, "KEEP_ALIVE": "1s", "name": "other", "prompt": "x"}'
    )
    assert wire == {"model": "chat", "options": {"seed": 1}, "keep_alive": -1, "prompt": "x"}


def test_the_data_of_a_client_is_not_touched_below_the_policy() -> None:
    tools: list[dict[str, Any]] = [
        {"function": {"parameters": {"properties": {"Model": {}, "id": {}, "ID": {}, "Prompt": {}}}}}
    ]
    assert prepared(json.dumps({"model": "chat", "messages": [], "tools": tools}))["tools"] == tools


def test_a_body_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    many = ",".join(["[]"] * 262_000)
    assert len(prepared(f'{{"model": "chat", "context": [{many}]}}')["context"]) == 262_000
    with pytest.raises(Refused) as refused:
        prepared(f'{{"model": "chat", "context": [{many},{many}')
    assert refused.value.status == 413


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert prepared('{"model": "chat", "prompt": "\\ud800"}')["prompt"] == "?"


def test_clients_do_not_extend_the_stay_of_a_model() -> None:
    assert prepared('{"model": "spare", "keep_alive": -1, "prompt": "x"}')["keep_alive"] == "10m"


def test_a_name_over_the_weights_of_a_pinned_model_does_not_shorten_its_stay() -> None:
    assert prepared('{"model": "chat-too", "prompt": "x"}')["keep_alive"] == -1


@pytest.mark.parametrize("zero", ["0", "0.0", '"0"', '"0s"', '"0m0s"', '"-0h"'])
def test_a_stop_is_refused_and_not_turned_into_a_load(zero: str) -> None:
    with pytest.raises(Refused) as refused:
        prepared(f'{{"model": "chat", "keep_alive": {zero}}}')
    assert refused.value.status == 403


@pytest.mark.parametrize("other", ["[]", "{}", "false", "null", '"10m"', '"' + "0" * 5000 + '!"', "5"])
def test_other_empty_prompts_go_to_the_loader(other: str) -> None:
    assert prepared(f'{{"model": "chat", "keep_alive": {other}}}')["keep_alive"] == -1


def test_unknown_models_are_not_found() -> None:
    with pytest.raises(Refused, match="model 'nope' not found") as refused:
        prepared('{"model": "nope"}')
    assert refused.value.status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/create"),
        ("DELETE", "/api/delete"),
        ("POST", "/api/copy"),
        ("POST", "/api/push"),
        ("POST", "/api/blobs/sha256:0"),
        ("POST", "/api/me"),
        ("GET", "/api/generate"),
        ("GET", "/api/tags/"),
        ("GET", "/v1/models/"),
        ("POST", "/api/%67enerate"),
        ("GET", "//api/tags"),
    ],
)
def test_the_door_stays_shut(method: str, path: str) -> None:
    assert find(method, path) is None
