"""The main job: two manifests lead to a real Ollama that answers through its Service."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import VERSIONS, Fleet, deployment, made_namespace, model_set

pytestmark = pytest.mark.e2e

CHAT = {"name": "chat", "contextLength": 2048}


def tokens(url: str, *, model: str = "chat", count: int = 8) -> Iterator[dict[str, Any]]:
    body = {"model": model, "prompt": "hello", "options": {"num_predict": count}}
    # kube-proxy follows a pod's readiness within about a second; until then nobody listens on the Service.
    transport = httpx.HTTPTransport(retries=6)
    with (
        httpx.Client(transport=transport, timeout=30) as http,
        http.stream("POST", f"{url}/api/generate", json=body) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            yield json.loads(line)


@pytest.fixture(scope="module")
def served(fleet: Fleet) -> Iterator[str]:
    """A namespace with a Ready OllamaDeployment that nobody changes."""
    with made_namespace(fleet, "first-light") as name:
        fleet.apply(model_set(fleet, name, CHAT), deployment(name))
        fleet.wait_ready("chat", name)
        yield name


@pytest.mark.parametrize("version", VERSIONS)
def test_two_manifests_lead_to_a_model_that_answers(fleet: Fleet, namespace: str, version: str) -> None:
    started = time.monotonic()
    fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace, version=version))
    fleet.wait_ready("chat", namespace)
    lines = list(tokens(fleet.address("chat-g0", namespace)))
    print(f"{version}: apply to last token {time.monotonic() - started:.1f} s")
    assert len([line for line in lines if line.get("response")]) >= 4
    assert lines[-1]["done"] is True

    status = fleet.get("od", "chat", namespace)["status"]
    assert (status["ready"], status["warm"], status["version"]) == ("1/1", "1/1", version)
    assert status["endpoint"] == f"http://chat-g0.{namespace}.svc:11434"
    (model,) = status["models"]
    assert (model["state"], model["warm"]) == ("Warm", 1)
    assert model["memory"] > 1_000_000
    assert model["digest"] == fleet.get("mset", "models", namespace)["status"]["models"][0]["digest"]
    effective = {value["name"]: value for value in status["effective"]}
    assert effective["version"]["source"] == "spec"
    assert effective["OLLAMA_NUM_PARALLEL"]["value"] == "4"


def test_the_columns_say_whether_it_is_ready_and_why_not(fleet: Fleet, served: str) -> None:
    header, row = fleet.run("get", "od", "-n", served).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "SERVERS", "WARM", "VRAM", "AGE"]
    assert row.split()[:5] == ["chat", "True", "AllWarm", "1/1", "1/1"]
    assert len(row.split()) == 6, "without GPUs the column VRAM is empty"
    header, row = fleet.run("get", "od", "-n", served, "-o", "wide").splitlines()
    assert header.split()[7:] == ["VERSION", "ENDPOINT", "MESSAGE"]
    assert row.split()[6] == "0.32.3"
    header, row = fleet.run("get", "mset", "-n", served).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "RESOLVED", "BYTES", "AGE"]
    assert row.split()[:4] == ["models", "True", "Resolved", "1/1"]


def test_a_pod_takes_traffic_only_after_a_token_was_generated(fleet: Fleet, served: str) -> None:
    (pod,) = fleet.pods(served)
    conditions = {entry["type"]: entry for entry in pod["status"]["conditions"]}
    gate = conditions["ollamafleet.io/vram-resident"]
    assert (gate["status"], gate["reason"], gate["message"]) == ("True", "Resident", "1/1 models in memory")
    state = json.loads(fleet.run("get", "--raw", _admin(served, pod, "fleet/v1/state")))
    (model,) = state["models"]
    assert model["phase"] == "Warm"
    assert model["loadSeconds"] > 0
    assert model["contextLength"] == 2048


def test_several_models_share_one_server(fleet: Fleet, namespace: str) -> None:
    models = (CHAT, {"name": "vectors", "model": "embed", "contextLength": 256}, {"name": "other", "model": "qwen"})
    fleet.apply(model_set(fleet, namespace, *models), deployment(namespace))
    fleet.wait_ready("chat", namespace)
    url = fleet.address("chat-g0", namespace)
    assert fleet.get("od", "chat", namespace)["status"]["warm"] == "3/3"
    assert list(tokens(url, model="other"))[-1]["done"] is True
    vectors = httpx.post(f"{url}/api/embed", json={"model": "vectors", "input": "x"}, timeout=30).json()
    assert any(vectors["embeddings"][0])


def test_deleting_the_deployment_leaves_nothing(fleet: Fleet, namespace: str) -> None:
    fleet.apply(model_set(fleet, namespace, CHAT), deployment(namespace))
    fleet.wait_ready("chat", namespace)
    fleet.run("delete", "od", "chat", "-n", namespace)
    kinds = ("deployment", "service", "pdb", "networkpolicy", "pod")
    fleet.wait("all children are gone", lambda: not any(fleet.get_all(kind, namespace) for kind in kinds))
    left = {item["metadata"]["name"] for item in fleet.get_all("configmap", namespace)}
    assert left == {"kube-root-ca.crt"}


def _admin(namespace: str, pod: Any, path: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:11435/proxy/{path}"
