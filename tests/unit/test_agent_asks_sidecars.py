"""What the agent takes from sidecars, and what their silence means."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from ollama_fleet.agent.pods import Pod
from ollama_fleet.agent.report import MAX_MODELS_OF_A_POD
from ollama_fleet.agent.sidecars import Sidecars, resident
from ollama_fleet.api.nodevramreport import ResidentModel
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState

DIGEST = f"sha256:{'a' * 64}"
POD = Pod("1", "team/chat-0", "127.0.0.1")
WARM = ModelState(name="chat", phase=ModelPhase.WARM, digest=DIGEST, size=9, size_vram=7, context_length=4096)
CHAT = ResidentModel(pod="team/chat-0", name="chat", digest=DIGEST, size=9, size_vram=7, context_length=4096)
HEARD = {POD.name: (CHAT,)}


class Sidecar:
    def __init__(self) -> None:
        self.body: Any = state(WARM).to_wire()
        self.status = 200
        self.hang = False
        self.port = 0
        self.peers: set[object] = set()
        """Connections that were seen."""
        self.runner: web.AppRunner

    async def stop(self) -> None:
        await self.runner.cleanup()

    async def answer(self, request: web.Request) -> web.Response:
        self.peers.add(request.transport and request.transport.get_extra_info("peername"))
        if self.hang:
            await asyncio.sleep(60)
        return web.json_response(self.body, status=self.status)


@pytest.fixture
async def sidecar() -> AsyncIterator[Sidecar]:
    found = Sidecar()
    app = web.Application()
    app.router.add_get("/fleet/v1/state", found.answer)
    found.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await found.runner.setup()
    await web.TCPSite(found.runner, "127.0.0.1", 0).start()
    found.port = found.runner.addresses[0][1]
    yield found
    await found.stop()


@pytest.fixture
async def sidecars(sidecar: Sidecar) -> AsyncIterator[Sidecars]:
    found = Sidecars(port=sidecar.port, clock=Clock())
    yield found
    found.close()
    # A connection that is cut off is closed in the loop's next turn.
    await asyncio.sleep(0)


def state(*models: ModelState) -> SidecarState:
    return SidecarState(sequence=1, config_hash="x", ready=True, models=models)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_models_in_memory_are_told_and_the_connection_is_kept(sidecar: Sidecar, sidecars: Sidecars) -> None:
    await sidecars.ask([POD, Pod("2", "team/no-address")])
    assert sidecars.models() == HEARD
    await sidecars.ask([POD])
    assert len(sidecar.peers) == 1


@pytest.mark.parametrize("fault", ["hang", "status", "form", "size", "gone"])
async def test_one_lost_answer_changes_nothing_but_silence_does(
    sidecar: Sidecar, sidecars: Sidecars, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_fleet.agent.sidecars._TIMEOUT_SECONDS", 0.2)
    clock = sidecars.clock
    assert isinstance(clock, Clock)
    await sidecars.ask([POD])
    if fault == "hang":
        sidecar.hang = True
    elif fault == "status":
        sidecar.status = 500
    elif fault == "form":
        sidecar.body = {"models": 7}
    elif fault == "size":
        sidecar.body = {**state(WARM).to_wire(), "padding": "x" * 300_000}
    else:
        await sidecar.stop()
    clock.now += 2
    await sidecars.ask([POD])
    assert sidecars.models() == HEARD
    clock.now += 7
    assert sidecars.models() == {}


async def test_pods_that_are_gone_are_forgotten(sidecars: Sidecars) -> None:
    await sidecars.ask([POD])
    await sidecars.ask([])
    assert sidecars.models() == {}


async def test_a_pod_that_comes_back_under_another_address_is_asked_there(sidecars: Sidecars) -> None:
    await sidecars.ask([Pod(POD.uid, POD.name, "127.0.0.9")])
    assert sidecars.models() == {}
    await sidecars.ask([POD])
    assert sidecars.models() == HEARD


async def test_a_sidecar_that_hangs_keeps_no_other_waiting(sidecar: Sidecar, sidecars: Sidecars) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.2", sidecar.port)
    asking = asyncio.create_task(sidecars.ask([Pod("2", "team/stuck", "127.0.0.2"), POD]))
    async with asyncio.timeout(1):
        while not sidecars.models():
            await asyncio.sleep(0.005)
    assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    server.close()
    await asyncio.sleep(0.02)


def test_only_what_is_loaded_is_resident() -> None:
    models = (
        ModelState(name="cold", phase=ModelPhase.CACHED, digest=DIGEST),
        ModelState(name="pulling", phase=ModelPhase.PULLING),
        WARM.model_copy(update={"name": "loading", "phase": ModelPhase.LOADING, "size_vram": 0}),
    )
    (found,) = resident(POD, state(*models))
    assert (found.name, found.size, found.size_vram) == ("loading", 9, 0)


async def test_a_pod_without_models_in_memory_is_heard(sidecar: Sidecar, sidecars: Sidecars) -> None:
    sidecar.body = state().to_wire()
    await sidecars.ask([POD])
    assert sidecars.models() == {POD.name: ()}


def test_the_models_of_a_pod_are_bounded() -> None:
    assert len(resident(POD, state(*(WARM for _ in range(100))))) == MAX_MODELS_OF_A_POD + 1


@pytest.mark.parametrize(
    "wrong",
    [{"size": 10**40}, {"sizeVram": 2**53}, {"contextLength": 2**31}, {"name": "\U0001f600"}, {"expiresAt": "\x00"}],
)
async def test_what_no_report_could_hold_is_not_taken(
    sidecar: Sidecar, sidecars: Sidecars, wrong: dict[str, object]
) -> None:
    """The API server would refuse the report of the whole node."""
    sidecar.body = {**state().to_wire(), "models": [{**WARM.to_wire(), **wrong}]}
    await sidecars.ask([POD])
    assert sidecars.models() == {}
