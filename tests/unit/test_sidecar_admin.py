"""The admin port: probes, the end of a pod, and the state that others follow."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ollama_fleet.api.state import ModelPhase, SidecarState
from ollama_fleet.sidecar import admin
from ollama_fleet.sidecar.admin import LINGER_SECONDS
from testbed.fakes.ollama import FakeOllama
from tests.support.sidecar_bench import PATIENCE, ManualClock, Sidecar, group_config, group_model, sidecar

DIGEST = "sha256:" + "0" * 64
ASK = {"model": "chat", "prompt": "x"}


@pytest.fixture(autouse=True)
def _little_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_QUIET_SECONDS", 0.001)
    monkeypatch.setattr(admin, "_HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(admin, "_LIVENESS_SECONDS", 0.2)


@dataclass
class Bench:
    ollama: FakeOllama
    sidecar: Sidecar
    clock: ManualClock

    async def get(self, path: str) -> tuple[int, str]:
        answer = await self.sidecar.admin.get(path)
        return answer.status_code, answer.text.strip()

    def in_service(self) -> None:
        self.sidecar.board.ollama_version = "0.32.3"
        self.sidecar.board.update("chat", phase=ModelPhase.WARM)

    @asynccontextmanager
    async def draining(self) -> AsyncIterator["asyncio.Task[tuple[int, str]]"]:
        """A drain that has begun."""
        drain = asyncio.create_task(self.get("/drain"))
        try:
            await self.sidecar.until(lambda: self.sidecar.board.draining)
            yield drain
        finally:
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)

    async def looked_twice(self) -> None:
        """The drain has looked at the clock since it was moved."""
        looks = self.clock.looks
        async with asyncio.timeout(PATIENCE):
            while self.clock.looks < looks + 4:
                await asyncio.sleep(0)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = ManualClock()
    async with (
        FakeOllama(models=["chat"]) as ollama,
        sidecar(ollama.url, tmp_path, clock=clock, warming=False) as under_test,
    ):
        config = group_config(group_model("chat", DIGEST), drain_seconds=60)
        under_test.board.configure(config)
        under_test.board.applied_hash = config.hash()
        yield Bench(ollama, under_test, clock)


async def test_the_sidecar_is_alive_whatever_ollama_does(bench: Bench) -> None:
    await bench.ollama.crash()
    assert await bench.get("/livez") == (200, "ok")


async def test_ready_says_what_it_waits_for(bench: Bench) -> None:
    board = bench.sidecar.board
    assert await bench.get("/readyz") == (503, "Ollama does not answer")
    board.ollama_version = "0.32.3"
    assert await bench.get("/readyz") == (503, "chat: Pulling")
    bench.in_service()
    assert await bench.get("/readyz") == (200, "ok")
    board.draining = True
    assert await bench.get("/readyz") == (503, "draining")


@pytest.mark.parametrize("wanted", [["chat"], []])
async def test_a_model_that_leaves_before_it_was_warm_makes_no_pod_ready(bench: Bench, wanted: list[str]) -> None:
    board = bench.sidecar.board
    board.ollama_version = "0.32.3"
    board.leave(["chat"], wanted=wanted)
    assert (await bench.get("/readyz"))[0] == 503


async def test_a_model_that_changes_takes_its_pod_out_of_service_when_it_is_gone(bench: Bench) -> None:
    bench.in_service()
    bench.sidecar.board.leave(["chat"], wanted=["chat"])
    assert await bench.get("/readyz") == (200, "ok")
    bench.sidecar.board.update("chat", phase=ModelPhase.CACHED)
    assert await bench.get("/readyz") == (503, "chat: Cached")


async def test_ollama_is_alive_as_long_as_it_tells_its_version(bench: Bench) -> None:
    assert await bench.get("/ollama-livez") == (200, "ok")
    bench.ollama.behaviour.hang_paths = ["/api/version"]
    assert await bench.get("/ollama-livez") == (503, "Ollama does not answer:")
    await bench.ollama.crash()
    status, text = await bench.get("/ollama-livez")
    assert (status, text.startswith("Ollama does not answer: cannot connect")) == (503, True)


async def test_what_is_not_served(bench: Bench) -> None:
    assert await bench.get("/api/tags") == (404, "no such path")


async def test_a_pod_that_was_not_in_service_drains_at_once(bench: Bench) -> None:
    assert await bench.get("/drain") == (200, "0 requests left")
    assert bench.sidecar.board.closed
    assert (await bench.sidecar.post("/api/generate", ASK)).status_code == 503


async def test_new_requests_are_served_while_services_follow(bench: Bench) -> None:
    bench.in_service()
    async with bench.draining() as drain:
        assert await bench.get("/readyz") == (503, "draining")
        bench.clock.now += LINGER_SECONDS - 0.1
        await bench.looked_twice()
        assert (await bench.sidecar.post("/api/generate", ASK)).status_code == 200
        assert not drain.done()
        bench.clock.now += 0.1
        assert await drain == (200, "0 requests left")
    refused = await bench.sidecar.post("/api/generate", ASK)
    assert (refused.status_code, refused.headers["x-ollama-fleet-busy"]) == (503, "1")


async def test_a_drain_waits_for_the_last_stream(bench: Bench) -> None:
    bench.in_service()
    bench.ollama.behaviour.hang_after_tokens = 1
    async with bench.sidecar.data.stream("POST", "/api/generate", json=ASK) as stream:
        # The stream lives as long as its iterator.
        lines = stream.aiter_lines()
        assert await anext(lines)
        async with bench.draining() as drain:
            bench.clock.now += LINGER_SECONDS
            await bench.looked_twice()
            assert not drain.done()
            assert bench.sidecar.board.closed
            await stream.aclose()
            assert await drain == (200, "0 requests left")


async def test_a_drain_ends_with_its_time(bench: Bench) -> None:
    bench.in_service()
    bench.ollama.behaviour.hang_after_tokens = 1
    async with (
        bench.sidecar.data.stream("POST", "/api/generate", json=ASK),
        bench.draining() as drain,
    ):
        bench.clock.now += 60
        assert await drain == (200, "1 requests left")


async def test_nothing_is_waited_for_when_ollama_hangs(bench: Bench) -> None:
    bench.in_service()
    bench.ollama.behaviour.hang_paths = ["/api/version"]
    async with asyncio.timeout(5):
        assert await bench.get("/drain") == (200, "0 requests left")


async def test_nothing_is_waited_for_when_ollama_is_stuck(bench: Bench) -> None:
    bench.sidecar.board.ollama_version, bench.sidecar.board.unanswered = "0.32.3", 2
    bench.ollama.behaviour.hang_after_tokens = 1
    async with bench.sidecar.data.stream("POST", "/api/generate", json=ASK), asyncio.timeout(5):
        assert await bench.get("/drain") == (200, "1 requests left")


async def test_a_drain_asks_ollama_once_and_then_goes_by_the_warmers_looks(bench: Bench) -> None:
    bench.in_service()
    async with bench.draining() as drain:
        await bench.looked_twice()
        assert [seen.path for seen in bench.ollama.seen] == ["/api/version"]
        bench.sidecar.board.ollama_version = None
        assert await drain == (200, "0 requests left")


async def test_the_state_is_one_document(bench: Bench) -> None:
    bench.in_service()
    answer = await bench.sidecar.admin.get("/fleet/v1/state")
    state = SidecarState.model_validate_json(answer.content)
    assert state == bench.sidecar.board.snapshot()
    assert (state.ready, state.config_hash) == (True, bench.sidecar.board.applied_hash)
    assert [(model.name, model.phase, model.slots) for model in state.models] == [("chat", ModelPhase.WARM, 1)]


async def states(stream: httpx.Response) -> AsyncIterator[SidecarState]:
    async for line in stream.aiter_lines():
        yield SidecarState.model_validate(json.loads(line))


async def test_watching_shows_the_state_then_changes_then_signs_of_life(bench: Bench) -> None:
    async with bench.sidecar.admin.stream("GET", "/fleet/v1/state?watch=1") as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        seen = states(stream)
        first = await anext(seen)
        assert not first.ready
        bench.in_service()
        async with asyncio.timeout(PATIENCE):
            while not (changed := await anext(seen)).ready:
                pass
        assert changed.sequence > first.sequence
        assert (await anext(seen)).sequence == changed.sequence


async def test_many_changes_become_few_lines(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "_QUIET_SECONDS", 0.02)
    monkeypatch.setattr(admin, "_HEARTBEAT_SECONDS", 60)
    async with bench.sidecar.admin.stream("GET", "/fleet/v1/state?watch=1") as stream:
        seen = states(stream)
        await anext(seen)
        lines = 0
        for _ in range(1000):
            bench.sidecar.board.touch()
        last = bench.sidecar.board.sequence
        async with asyncio.timeout(PATIENCE):
            while (await anext(seen)).sequence < last:
                lines += 1
        assert lines < 5


async def test_a_watcher_that_leaves_is_forgotten(bench: Bench) -> None:
    connections = bench.sidecar.admin_server._listener.connections
    async with bench.sidecar.admin.stream("GET", "/fleet/v1/state?watch=1") as stream:
        seen = states(stream)
        await anext(seen)
        assert len(connections) == 1
    async with asyncio.timeout(5):
        while connections:
            await asyncio.sleep(0)
