"""What is loaded, in which order, what proves it, what happens when it fails, and what leaves memory again."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.state import ModelPhase
from ollama_fleet.sidecar import warmer
from testbed.fakes.ollama import FakeOllama
from testbed.models import push
from tests.support.sidecar_bench import PATIENCE, ManualClock, Sidecar, group_config, group_model, pulled, sidecar

WARM, FAILED, CACHED, LOADING, PULLING = (
    ModelPhase.WARM,
    ModelPhase.FAILED,
    ModelPhase.CACHED,
    ModelPhase.LOADING,
    ModelPhase.PULLING,
)


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once; how long a failed model waits is for the clock of the test."""
    monkeypatch.setattr(warmer, "FAST_SECONDS", 0.001)
    monkeypatch.setattr(warmer, "SLOW_SECONDS", 0.001)


@dataclass
class Bench:
    ollama: FakeOllama
    sidecar: Sidecar
    clock: ManualClock
    models: Path
    digests: dict[str, str]

    def model(self, name: str, image: str = "chat", **fields: Any) -> GroupModel:
        return group_model(name, self.digests[image], **fields)

    async def apply(self, *models: GroupModel, **fields: Any) -> bool:
        return await self.sidecar.warmer.apply(group_config(*models, **fields))

    def asked(self, path: str = "/api/generate") -> list[dict[str, Any]]:
        """Bodies of the requests that reached Ollama."""
        return [json.loads(seen.body) for seen in self.ollama.seen if seen.path == path]

    def loads(self) -> list[str]:
        return [body["model"] for body in self.asked() if not body.get("prompt") and body["keep_alive"] != 0]

    async def until_loaded(self, *names: str) -> None:
        """Ollama changes without the sidecar's hearing of it."""
        async with asyncio.timeout(10):
            while set(self.ollama.loaded) != {f"{name}:latest" for name in names}:
                await asyncio.sleep(0)


@pytest.fixture(scope="module")
def images() -> dict[str, push.Image]:
    return {name: push.image(name) for name in ("chat", "chat-large", "embed")}


@pytest.fixture
async def bench(tmp_path: Path, images: dict[str, push.Image]) -> AsyncIterator[Bench]:
    digests = {name: pulled(tmp_path, image) for name, image in images.items()}
    clock = ManualClock()
    async with FakeOllama(store=tmp_path) as ollama, sidecar(ollama.url, tmp_path, clock=clock) as under_test:
        yield Bench(ollama, under_test, clock, tmp_path, digests)


async def test_pinned_models_load_in_the_order_of_the_configuration(bench: Bench) -> None:
    assert await bench.apply(bench.model("urgent"), bench.model("large", "chat-large"), bench.model("embed", "embed"))
    assert not bench.sidecar.board.ready
    await bench.sidecar.warm("urgent", "large", "embed")
    assert bench.loads() == ["urgent", "large"]
    order = [seen.path for seen in bench.ollama.seen if seen.path in {"/api/generate", "/api/embed"}]
    assert order == ["/api/generate"] * 4 + ["/api/embed"] * 2
    assert bench.sidecar.board.ready


async def test_a_model_is_warm_when_it_gave_a_token_and_stays_for_good(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    load, proof = bench.asked()
    assert load == {"model": "chat", "keep_alive": -1, "stream": False}
    assert (proof["options"]["num_predict"], proof["keep_alive"], bool(proof["prompt"])) == (1, -1, True)
    known = bench.sidecar.board.warmth["chat"]
    assert (known.size, known.size_vram, known.context_length) == (5_000_000, 5_000_000, 4096)
    assert known.load_seconds == 0.0
    assert known.ready_once


async def test_an_encoder_proves_itself_with_a_vector(bench: Bench) -> None:
    await bench.apply(bench.model("embed", "embed"))
    await bench.sidecar.warm("embed")
    assert bench.asked() == []
    assert [body["keep_alive"] for body in bench.asked("/api/embed")] == [-1, -1]


async def test_without_a_token_a_model_is_not_warm(bench: Bench) -> None:
    bench.ollama.behaviour.end_after_tokens = 0
    await bench.apply(bench.model("chat"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
    assert bench.sidecar.board.warmth["chat"].message == "the model gave no token"
    assert not bench.sidecar.board.ready
    bench.ollama.behaviour.end_after_tokens = None
    bench.clock.now += 1
    await bench.sidecar.warm("chat")
    assert bench.sidecar.board.warmth["chat"].message == ""


async def test_a_model_under_another_digest_than_the_planned_one_is_not_warm(bench: Bench, tmp_path: Path) -> None:
    async with (
        FakeOllama(models=["chat"]) as stranger,
        sidecar(stranger.url, tmp_path, clock=ManualClock()) as under_test,
    ):
        await under_test.warmer.apply(group_config(bench.model("chat")))
        await under_test.until(lambda: under_test.phase("chat") is FAILED)
        assert under_test.board.warmth["chat"].message == "loaded, but not under the planned digest"


async def test_a_model_that_takes_no_memory_is_not_warm(bench: Bench) -> None:
    bench.ollama.behaviour.size = 0
    await bench.apply(bench.model("chat"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") in {FAILED, WARM})
    assert bench.sidecar.phase("chat") is FAILED
    assert not bench.sidecar.board.ready


async def test_failed_loads_are_repeated_ever_later(bench: Bench) -> None:
    bench.ollama.behaviour.load_error = "model requires more system memory"
    await bench.apply(bench.model("chat"))
    for attempt, wait in enumerate((1.0, 2.0, 5.0, 10.0, 30.0, 30.0), start=1):
        await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
        assert bench.sidecar.board.warmth["chat"].message == "model requires more system memory"
        looks = len(bench.ollama.seen)
        bench.clock.now += wait - 0.01
        async with asyncio.timeout(PATIENCE):
            while len(bench.ollama.seen) < looks + 3:
                await asyncio.sleep(0)
        assert len(bench.loads()) == attempt
        bench.clock.now += 0.01
        await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is LOADING)
    bench.ollama.behaviour.load_error = None


async def test_a_load_that_never_ends_is_given_up(bench: Bench) -> None:
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("chat"), load_timeout_seconds=0)
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
    assert bench.sidecar.board.warmth["chat"].message == "not in memory after 0 s"


async def test_ollama_that_lets_two_loads_run_out_of_time_is_stuck_unless_it_serves(bench: Bench) -> None:
    board = bench.sidecar.board
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("chat"), load_timeout_seconds=0)
    await bench.sidecar.until(lambda: board.unanswered == 1)
    assert (await bench.sidecar.admin.get("/ollama-livez")).status_code == 200
    bench.clock.now += 100
    await bench.sidecar.until(lambda: board.unanswered == 2)
    answer = await bench.sidecar.admin.get("/ollama-livez")
    assert (answer.status_code, answer.text) == (503, "Ollama is stuck: 2 loads in a row had no answer\n")
    bench.ollama.behaviour.load_seconds = 0.0
    bench.clock.now += 100
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    assert board.unanswered == 0

    # A newcomer that does not load takes no server away from those who use it.
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"), load_timeout_seconds=0)
    await bench.sidecar.until(lambda: board.unanswered == 1)
    bench.clock.now += 100
    await bench.sidecar.until(lambda: board.unanswered == 2)
    assert (await bench.sidecar.admin.get("/ollama-livez")).status_code == 200


async def test_an_answer_to_a_load_is_a_sign_of_life(bench: Bench) -> None:
    board = bench.sidecar.board
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("chat"), load_timeout_seconds=0)
    await bench.sidecar.until(lambda: board.unanswered == 1)
    bench.ollama.behaviour.load_seconds, bench.ollama.behaviour.load_error = 0.0, "no"
    await bench.apply(bench.model("chat"))
    bench.clock.now += 100
    await bench.sidecar.until(lambda: board.warmth["chat"].message == "no")
    assert board.unanswered == 0


async def test_one_that_fails_does_not_hold_up_the_next(bench: Bench) -> None:
    bench.digests["broken"] = bench.digests["chat"]
    bench.ollama.behaviour.load_error = "no"
    await bench.apply(bench.model("broken"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("broken") is FAILED)
    bench.ollama.behaviour.load_error = None
    await bench.apply(bench.model("broken"), bench.model("large", "chat-large"))
    await bench.sidecar.warm("large")
    assert bench.sidecar.phase("broken") is FAILED
    assert not bench.sidecar.board.ready


async def test_a_model_that_joins_is_loaded_and_takes_nothing_out_of_service(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    bench.ollama.behaviour.load_error = "no"
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("large") is FAILED)
    assert bench.sidecar.board.ready
    bench.ollama.behaviour.load_error = None
    bench.clock.now += 1
    await bench.sidecar.warm("large")
    assert bench.loads().count("chat") == 1


async def test_a_model_that_is_removed_leaves_memory(bench: Bench) -> None:
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"), bench.model("embed", "embed"))
    await bench.sidecar.warm("chat", "large", "embed")
    await bench.apply(bench.model("chat"))
    await bench.until_loaded("chat")
    assert bench.sidecar.phases() == {"chat": WARM}
    names = {entry["name"] for entry in (await bench.sidecar.data.get("/api/tags")).json()["models"]}
    assert names == {"chat:latest"}


async def test_a_model_that_is_removed_leaves_memory_also_when_ollama_does_not_answer_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.warm("chat", "large")
    bench.ollama.behaviour.hang_paths = ["/api/ps"]
    with monkeypatch.context() as patch:
        patch.setattr(warmer, "LOOK_SECONDS", 0.05)
        assert not await bench.apply(bench.model("chat"))
    bench.ollama.behaviour.hang_paths = []
    async with asyncio.timeout(PATIENCE):
        while not await bench.apply(bench.model("chat")):
            await asyncio.sleep(0)
    assert bench.ollama.loaded == ["chat:latest"]


async def test_a_model_that_leaves_gets_no_new_requests_and_takes_nothing_out_of_service(bench: Bench) -> None:
    board = bench.sidecar.board
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.warm("chat", "large")
    bench.ollama.behaviour.hang_after_tokens = 1
    ask = {"model": "large", "prompt": "x"}
    async with bench.sidecar.data.stream("POST", "/api/generate", json=ask) as stream:
        lines = stream.aiter_lines()
        assert await anext(lines)
        # Ollama frees the memory when the stream has ended.
        assert not await bench.apply(bench.model("chat"))
        refused = await bench.sidecar.post("/api/generate", ask)
        assert (refused.status_code, refused.headers["x-ollama-fleet-busy"]) == (503, "1")
        bench.ollama.behaviour.hang_after_tokens = None
        served = await bench.sidecar.post("/api/generate", {"model": "chat", "prompt": "x", "stream": False})
        assert (served.status_code, board.ready) == (200, True)
    await bench.until_loaded("chat")
    assert board.ready
    assert await bench.apply(bench.model("chat"))
    assert (await bench.sidecar.post("/api/generate", ask)).status_code == 404
    assert (bench.sidecar.phases(), bench.loads()) == ({"chat": WARM}, ["chat", "large"])


async def test_a_stream_has_the_drain_time_to_end_when_its_model_leaves(bench: Bench) -> None:
    """Or one that never ends would hold back the new configuration for good, and its model with it."""
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.warm("chat", "large")
    bench.ollama.behaviour.hang_after_tokens = 1
    streams = bench.sidecar.data.stream
    chat, large = ({"model": name, "prompt": "x"} for name in ("chat", "large"))
    async with (
        streams("POST", "/api/generate", json=chat) as other,
        streams("POST", "/api/generate", json=large) as cut,
    ):
        lines, others = cut.aiter_lines(), other.aiter_lines()
        assert await anext(lines)
        assert await anext(others)
        assert not await bench.apply(bench.model("chat"), drain_seconds=60)
        bench.clock.now += 59
        assert not await bench.apply(bench.model("chat"), drain_seconds=60)
        assert len(bench.sidecar.board.slots["large"].running) == 1
        bench.clock.now += 1
        assert not await bench.apply(bench.model("chat"), drain_seconds=60)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(lines)
        await bench.until_loaded("chat")
        assert await bench.apply(bench.model("chat"), drain_seconds=60)
        assert len(bench.sidecar.board.slots["chat"].running) == 1, "streams of models that stay go on"


async def test_a_model_that_leaves_later_has_the_whole_drain_time(bench: Bench) -> None:
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.warm("chat", "large")
    bench.ollama.behaviour.hang_after_tokens = 1
    streams = bench.sidecar.data.stream
    async with streams("POST", "/api/generate", json={"model": "chat", "prompt": "x"}) as second:
        async with streams("POST", "/api/generate", json={"model": "large", "prompt": "x"}) as first:
            # Kept: a stream is closed with the iterator over its lines.
            lines = first.aiter_lines(), second.aiter_lines()
            assert all([await anext(one) for one in lines])
            assert not await bench.apply(bench.model("chat"), drain_seconds=60)
            bench.clock.now += 59
            assert not await bench.apply(drain_seconds=60)
            bench.clock.now += 59
            assert not await bench.apply(drain_seconds=60)
            running = {name: len(slots.running) for name, slots in bench.sidecar.board.slots.items()}
            assert running == {"chat": 1, "large": 0}
        await bench.until_loaded("chat")
        # Wanted again for a moment: then it leaves anew.
        assert await bench.apply(bench.model("chat"), drain_seconds=60)
        bench.clock.now += 59
        assert not await bench.apply(drain_seconds=60)
        assert len(bench.sidecar.board.slots["chat"].running) == 1


async def test_a_model_that_is_wanted_again_while_it_leaves_is_open_again(bench: Bench) -> None:
    both = (bench.model("chat"), bench.model("large", "chat-large"))
    await bench.apply(*both)
    await bench.sidecar.warm("chat", "large")
    bench.ollama.behaviour.hang_paths = ["/api/show", "/api/generate"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await bench.apply(bench.model("chat"))
    bench.ollama.behaviour.hang_paths = []
    assert bench.sidecar.board.slots["large"].count == 0
    assert await bench.apply(*both)
    assert bench.sidecar.board.slots["large"].count == 1


async def test_a_model_that_is_removed_while_it_loads_does_not_come_to_stay(bench: Bench) -> None:
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("large", "chat-large"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("large") is LOADING)
    async with asyncio.timeout(PATIENCE):
        while not bench.loads():
            await asyncio.sleep(0)
    bench.ollama.behaviour.load_seconds = 0.0
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    await bench.until_loaded("chat")


async def test_a_model_that_failed_its_proof_leaves_memory_with_its_removal(bench: Bench) -> None:
    bench.ollama.behaviour.end_after_tokens = 0
    await bench.apply(bench.model("chat"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
    await bench.until_loaded("chat")
    await bench.apply()
    await bench.until_loaded()


async def test_names_over_the_same_weights_are_warm_together(bench: Bench) -> None:
    """Ollama shows their one runner under the name that loaded it."""
    formal = bench.model("formal", modelfile={"system": "You are formal."})
    await bench.apply(bench.model("chat"), formal)
    await bench.sidecar.warm("chat", "formal")
    assert bench.ollama.loads == 1
    assert bench.ollama.loaded == ["chat:latest"]
    await bench.apply(formal)
    await bench.until_loaded("formal")
    await bench.sidecar.warm("formal")


async def test_names_over_the_same_weights_share_the_slots_and_the_stay_of_their_runner(bench: Bench) -> None:
    brief = pulled(bench.models, push.image("chat", system="You are brief."))
    assert brief != bench.digests["chat"]
    pinned = bench.model("chat", parallel=3)
    await bench.apply(pinned, group_model("brief", brief, parallel=2, residency="OnDemand", keep_alive="10m"))
    await bench.sidecar.warm("chat", "brief")
    board = bench.sidecar.board
    await board.slots["chat"].acquire()
    assert [(model.slots, model.in_flight) for model in board.snapshot().models] == [(3, 1), (3, 1)]
    await bench.apply(pinned, group_model("brief", brief, parallel=4, residency="OnDemand", keep_alive="10m"))
    assert [(model.slots, model.in_flight) for model in board.snapshot().models] == [(4, 1), (4, 1)]
    board.slots["brief"].release()
    await bench.sidecar.post("/api/generate", {"model": "brief", "prompt": "x", "stream": False})
    assert {body["keep_alive"] for body in bench.asked()} == {-1}


async def test_another_context_loads_the_model_anew(bench: Bench) -> None:
    await bench.apply(bench.model("chat", context_length=1024))
    await bench.sidecar.warm("chat")
    before = bench.sidecar.board.warmth["chat"].digest
    await bench.apply(bench.model("chat", context_length=2048))
    await bench.sidecar.until(lambda: bench.sidecar.board.warmth["chat"].context_length == 2048)
    assert bench.sidecar.board.warmth["chat"].digest != before
    assert bench.sidecar.phase("chat") is WARM


async def test_more_slots_load_nothing(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    await bench.apply(bench.model("chat", parallel=3))
    assert bench.sidecar.phase("chat") is WARM
    assert bench.sidecar.board.slots["chat"].count == 3
    assert bench.ollama.loads == 1


async def test_an_evicted_model_is_noticed_and_loaded_again(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    bench.ollama.evict("chat")
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is not WARM)
    assert not bench.sidecar.board.ready
    await bench.sidecar.warm("chat")
    assert bench.ollama.loads == 2


async def test_losses_are_noticed_while_another_model_loads(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    bench.ollama.behaviour.load_seconds = 1e9
    await bench.apply(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.until(lambda: bench.sidecar.phase("large") is LOADING)
    bench.ollama.evict("chat")
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is CACHED)
    assert (bench.sidecar.phase("large"), bench.sidecar.board.ready) == (LOADING, False)
    assert bench.loads().count("chat") == 1


async def test_models_on_demand_are_left_to_their_clients(bench: Bench) -> None:
    await bench.apply(bench.model("chat"), bench.model("spare", "chat-large", residency="OnDemand", keep_alive="10m"))
    await bench.sidecar.warm("chat")
    assert bench.sidecar.board.ready
    assert bench.sidecar.phase("spare") is CACHED
    answer = await bench.sidecar.post("/api/generate", {"model": "spare", "prompt": "x", "stream": False})
    assert answer.status_code == 200
    await bench.sidecar.warm("spare")
    bench.ollama.evict("spare")
    await bench.sidecar.until(lambda: bench.sidecar.phase("spare") is CACHED)
    assert bench.sidecar.board.ready
    assert bench.loads() == ["chat"]


async def test_where_all_models_are_on_demand_one_proves_the_server_and_then_may_go(bench: Bench) -> None:
    spares = (bench.model("spare", "chat-large", residency="OnDemand", keep_alive="10m"),)
    await bench.apply(*spares, bench.model("other", residency="OnDemand"))
    board = bench.sidecar.board
    await bench.sidecar.until(lambda: board.ollama_version is not None)
    assert not board.ready
    await bench.sidecar.warm("spare")
    assert board.ready
    assert (bench.loads(), bench.asked()[0]["keep_alive"]) == (["spare"], "10m")
    bench.ollama.evict("spare")
    await bench.sidecar.until(lambda: bench.sidecar.phase("spare") is CACHED)
    assert board.ready
    assert bench.loads() == ["spare"]


async def test_where_all_models_are_on_demand_a_new_ollama_is_proved_anew(bench: Bench) -> None:
    board = bench.sidecar.board
    await bench.apply(bench.model("chat", residency="OnDemand"))
    await bench.sidecar.warm("chat")
    await bench.ollama.crash()
    await bench.sidecar.until(lambda: board.ollama_version is None)
    bench.ollama.behaviour.load_error = "no GPU any more"
    await bench.ollama.start()
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
    assert not board.ready
    bench.ollama.behaviour.load_error = None
    bench.clock.now += 1
    await bench.sidecar.warm("chat")
    assert board.ready


async def test_a_model_that_stays_for_its_requests_only_proves_the_server_too(bench: Bench) -> None:
    await bench.apply(bench.model("chat", residency="OnDemand", keep_alive="0s"))
    await bench.sidecar.warm("chat")
    assert bench.sidecar.board.ready
    await bench.sidecar.post("/api/generate", {"model": "chat", "prompt": "x", "stream": False})
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is CACHED)
    assert bench.sidecar.board.ready


async def test_a_model_on_demand_that_could_not_prove_the_server_is_left_to_its_clients(bench: Bench) -> None:
    chat = bench.model("chat", residency="OnDemand")
    bench.ollama.behaviour.load_error = "no"
    await bench.apply(chat)
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is FAILED)
    bench.ollama.behaviour.load_error = None
    await bench.apply(chat, bench.model("large", "chat-large"))
    await bench.sidecar.warm("large")
    await bench.sidecar.until(lambda: bench.sidecar.phase("chat") is CACHED)
    await bench.sidecar.post("/api/generate", {"model": "chat", "prompt": "x", "stream": False})
    await bench.sidecar.warm("chat")
    assert bench.sidecar.board.warmth["chat"].message == ""


async def test_a_load_whose_client_gave_up_is_finished_for_the_next_one(bench: Bench) -> None:
    await bench.apply(bench.model("chat"), bench.model("spare", "chat-large", residency="OnDemand", keep_alive="10m"))
    await bench.sidecar.warm("chat")
    bench.ollama.behaviour.load_seconds = 1e9
    client = asyncio.create_task(bench.sidecar.post("/api/generate", {"model": "spare", "prompt": "x"}))
    async with asyncio.timeout(PATIENCE):
        while "spare" not in {body["model"] for body in bench.asked()}:
            await asyncio.sleep(0)
    await bench.sidecar.data.get("/api/version")
    bench.ollama.behaviour.load_seconds = 0.0
    client.cancel()
    await bench.sidecar.warm("spare")
    assert bench.loads() == ["chat", "spare"]


async def test_weights_and_the_end_of_a_stay_are_told(bench: Bench) -> None:
    await bench.apply(bench.model("chat"), bench.model("spare", "chat-large", residency="OnDemand", keep_alive="10m"))
    await bench.sidecar.warm("chat")
    await bench.sidecar.post("/api/generate", {"model": "spare", "prompt": "x", "stream": False})
    # While a request runs, Ollama shows its own five minutes.
    soon = datetime.now(UTC) + timedelta(minutes=9)
    warmth = bench.sidecar.board.warmth
    await bench.sidecar.until(lambda: warmth["spare"].expires_at > soon.isoformat())
    chat, spare = bench.sidecar.board.snapshot().models
    assert chat.expires_at == ""
    assert datetime.fromisoformat(spare.expires_at) <= soon + timedelta(minutes=2)
    for model, image in ((chat, "chat"), (spare, "chat-large")):
        layers = json.loads(push.image(image).manifest)["layers"]
        assert model.weights in {layer["digest"] for layer in layers if layer["mediaType"].endswith(".model")}
    bench.ollama.evict("spare")
    await bench.sidecar.until(lambda: bench.sidecar.phase("spare") is CACHED)
    assert bench.sidecar.board.snapshot().models[1].expires_at == ""


async def test_an_ollama_that_comes_back_is_warmed_again(bench: Bench) -> None:
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    await bench.ollama.crash()
    board = bench.sidecar.board
    await bench.sidecar.until(lambda: board.ollama_version is None)
    assert (board.ready, board.why_not(), bench.sidecar.phase("chat")) == (False, "Ollama does not answer", CACHED)
    await bench.ollama.start()
    await bench.sidecar.warm("chat")
    assert board.ready


async def test_a_hung_ollama_is_not_ready(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmer, "LOOK_SECONDS", 0.05)
    await bench.apply(bench.model("chat"))
    await bench.sidecar.warm("chat")
    bench.ollama.behaviour.hang_paths = ["/api/ps"]
    await bench.sidecar.until(lambda: not bench.sidecar.board.ready)
    assert bench.sidecar.phase("chat") is CACHED


async def test_a_model_without_files_waits_and_the_configuration_is_not_reported_as_applied(
    bench: Bench, tmp_path: Path, images: dict[str, push.Image]
) -> None:
    store = tmp_path / "other"
    late = push.image("chat", system="comes later")
    pulled(store, images["chat"])
    async with (
        FakeOllama(store=store) as ollama,
        sidecar(ollama.url, store, clock=ManualClock()) as under_test,
    ):
        config = group_config(bench.model("chat"), group_model("late", late.digest))
        assert not await under_test.warmer.apply(config)
        await under_test.warm("chat")
        assert under_test.phase("late") is PULLING
        assert (under_test.board.applied_hash, under_test.board.ready) == ("", False)
        pulled(store, late)
        assert await under_test.warmer.apply(config)
        assert under_test.board.applied_hash == config.hash()
        await under_test.warm("late")
        assert under_test.board.ready


async def test_an_update_leaves_a_model_in_service_until_its_new_files_are_there(bench: Bench) -> None:
    old = group_config(bench.model("chat"), bench.model("large", "chat-large"))
    await bench.sidecar.warmer.apply(old)
    await bench.sidecar.warm("chat", "large")
    update = push.image("chat", system="comes later")
    wish = group_config(group_model("chat", update.digest))
    assert not await bench.sidecar.warmer.apply(wish)
    assert not await bench.sidecar.warmer.apply(wish)
    await bench.until_loaded("chat")
    board = bench.sidecar.board
    assert (board.ready, board.applied_hash, bench.sidecar.phases()) == (True, old.hash(), {"chat": WARM})
    answer = await bench.sidecar.post("/api/generate", {"model": "chat", "prompt": "x", "stream": False})
    assert (answer.status_code, bench.loads()) == (200, ["chat", "large"])

    before = board.warmth["chat"].digest
    pulled(bench.models, update)
    assert await bench.sidecar.warmer.apply(wish)
    assert board.applied_hash == wish.hash()
    await bench.sidecar.warm("chat")
    assert board.warmth["chat"].digest != before


async def test_a_form_that_was_never_served_is_not_kept(bench: Bench) -> None:
    first, second = push.image("chat", system="first"), push.image("chat", system="second")
    assert not await bench.apply(group_model("late", first.digest))
    assert not await bench.apply(group_model("late", second.digest))
    pulled(bench.models, first)
    assert not await bench.apply(group_model("late", second.digest))
    assert bench.sidecar.phase("late") is PULLING


async def test_nothing_is_loaded_without_a_configuration(tmp_path: Path) -> None:
    async with FakeOllama(models=["chat"]) as ollama, sidecar(ollama.url, tmp_path) as under_test:
        await under_test.until(lambda: under_test.board.ollama_version is not None)
        assert not under_test.board.ready
        assert ollama.loads == 0
