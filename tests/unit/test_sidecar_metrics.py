"""What a scrape of the sidecar says, and what can never become a label."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ollama_fleet.api.state import ModelPhase
from testbed.fakes.ollama import FakeOllama
from tests.support.sidecar_bench import Sidecar, group_config, group_model, sidecar

DIGEST, OTHER = "sha256:" + "0" * 64, "sha256:" + "1" * 64
Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
async def under_test(tmp_path: Path) -> AsyncIterator[Sidecar]:
    async with FakeOllama(models=["chat"]) as ollama, sidecar(ollama.url, tmp_path, warming=False) as found:
        found.board.configure(group_config(group_model("chat", DIGEST, parallel=2), group_model("spare", OTHER)))
        yield found


async def scraped(sidecar: Sidecar) -> Samples:
    """Values by name and by the values of the labels, in the order of the labels' names."""
    answer = (await sidecar.admin.get("/metrics")).raise_for_status()
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_models_show_slots_use_and_memory(under_test: Sidecar) -> None:
    await under_test.board.slots["chat"].acquire()
    under_test.board.update("chat", phase=ModelPhase.WARM, size=7, load_seconds=1.5)
    assert await scraped(under_test) == {
        ("ollama_fleet_model_slots", ("chat",)): 2,
        ("ollama_fleet_model_slots", ("spare",)): 1,
        ("ollama_fleet_model_requests_in_flight", ("chat",)): 1,
        ("ollama_fleet_model_requests_in_flight", ("spare",)): 0,
        ("ollama_fleet_model_requests_waiting", ("chat",)): 0,
        ("ollama_fleet_model_requests_waiting", ("spare",)): 0,
        ("ollama_fleet_model_warm", ("chat",)): 1,
        ("ollama_fleet_model_warm", ("spare",)): 0,
        ("ollama_fleet_model_memory_bytes", ("chat",)): 7,
        ("ollama_fleet_model_memory_bytes", ("spare",)): 0,
        ("ollama_fleet_model_load_seconds", ("chat",)): 1.5,
        ("ollama_fleet_model_load_seconds", ("spare",)): 0,
    }


async def test_a_model_that_left_leaves_no_series(under_test: Sidecar) -> None:
    await scraped(under_test)
    under_test.board.configure(group_config(group_model("spare", OTHER)))
    assert {labels for _, labels in await scraped(under_test)} == {("spare",)}


async def test_requests_are_counted_by_route_and_code(under_test: Sidecar) -> None:
    ask = {"model": "chat", "prompt": "x", "stream": False}
    for _ in range(2):
        await under_test.post("/api/generate", ask)
    await under_test.post("/api/generate", {**ask, "model": "nope"})
    await under_test.data.get("/v1/models/chat")
    await under_test.data.head("/")
    found = {labels: value for (name, labels), value in (await scraped(under_test)).items() if "requests_total" in name}
    assert found == {
        ("200", "/api/generate"): 2,
        ("404", "/api/generate"): 1,
        ("200", "/v1/models/{model}"): 1,
        ("200", "/"): 1,
    }


async def test_what_clients_make_up_does_not_become_a_label(under_test: Sidecar) -> None:
    for number in range(20):
        await under_test.data.get(f"/made/up/{number}")
        await under_test.data.get(f"/v1/models/made-up-{number}")
        await under_test.post("/api/generate", {"model": f"made-up-{number}", "prompt": "x"})
    labels = [labels for name, labels in await scraped(under_test) if "requests_total" in name]
    assert sorted(labels) == [("404", "/api/generate"), ("404", "/v1/models/{model}"), ("404", "other")]
