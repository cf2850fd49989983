"""``/livez`` answers 503 where a restart helps, and nowhere else."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ollama_fleet.handlers import main, shell
from ollama_fleet.handlers.main import Operator
from ollama_fleet.handlers.options import parse
from ollama_fleet.handlers.shell import run_shell
from ollama_fleet.kube.transport import Json
from ollama_fleet.telemetry.health import Health, Heartbeat
from ollama_fleet.telemetry.http import HttpServer
from tests.support.stand_in_api import stand_in_api


class Api:
    """A Lease that can be taken, empty lists, and one kind that may not be listed."""

    def __init__(self) -> None:
        self.lease: Json = {}
        self.refused = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if "/leases" in request.path:
            return await self._serve_lease(request)
        if request.path.endswith("/nodevramreports"):
            self.refused.set()
            return web.json_response({"reason": "Forbidden", "message": "cannot list"}, status=403)
        if "watch" in request.query:
            await asyncio.sleep(60)
        return web.json_response({"metadata": {"resourceVersion": "5"}, "items": []})

    async def _serve_lease(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(self.lease, status=200 if self.lease else 404)
        self.lease = await request.json()
        self.lease["metadata"]["resourceVersion"] = "1"
        return web.json_response(self.lease)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api()
    async with stand_in_api(api.serve, tmp_path / "kubeconfig"):
        yield api


async def test_a_leader_whose_caches_do_not_fill_is_alive_and_not_ready(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Health] = []

    async def serve(health: Health, *_: Any, **__: Any) -> tuple[HttpServer, int]:
        served.append(health)
        return HttpServer({}), 0

    monkeypatch.setattr(main, "serve", serve)
    options = parse(["--fleet-image=x", "--identity=me", "--namespace=ns", f"--kubeconfig={tmp_path}/kubeconfig"])
    now = 0.0
    operator = Operator(options, shell_beat=Heartbeat("kopf's thread", limit=30, clock=lambda: now))
    running = asyncio.create_task(operator.run())
    async with asyncio.timeout(20):
        await operator.elected.wait()
        await api.refused.wait()
    now = 3600.0
    (health,) = served
    assert (await health.livez()).status == 200
    ready = await health.readyz()
    assert ready.status == 503
    assert b"nodevramreports" in ready.body
    operator.stop.set()
    assert await asyncio.wait_for(running, 20) == 0


async def test_a_pause_between_two_lives_of_kopf_is_no_stuck_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    stop = asyncio.Event()
    heart = Heartbeat("kopf's thread", limit=30, clock=lambda: now)
    found: list[str | None] = []

    async def end(**_: Any) -> None:
        raise RuntimeError("kopf gives up")

    def pause(_: object, failures: int) -> float:
        nonlocal now
        now += 60
        found.append(heart.check())
        if failures == 7:
            stop.set()
        return 0.0

    monkeypatch.setattr(shell.kopf, "operator", end)
    monkeypatch.setattr(shell.Backoff, "delay", pause)
    async with asyncio.timeout(20):
        await run_shell(enqueue=lambda *_: None, on_started=lambda: None, stop=stop, heart=heart)
    assert found == [None] * 7


async def test_a_thread_of_kopf_s_that_hangs_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    stop = asyncio.Event()
    heart = Heartbeat("kopf's thread", limit=30, clock=lambda: now)
    hangs = asyncio.Event()
    let_go = threading.Event()
    loop = asyncio.get_running_loop()

    async def hang(**_: Any) -> None:
        loop.call_soon_threadsafe(hangs.set)
        let_go.wait(20)

    monkeypatch.setattr(shell.kopf, "operator", hang)
    running = asyncio.create_task(run_shell(enqueue=lambda *_: None, on_started=lambda: None, stop=stop, heart=heart))
    await asyncio.wait_for(hangs.wait(), 20)
    now = 31.0
    assert heart.check() == "kopf's thread has not moved for 31 s"
    let_go.set()
    stop.set()
    await asyncio.wait_for(running, 20)
    assert heart.check() is None
