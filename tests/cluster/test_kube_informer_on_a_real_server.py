"""Informers over a real API server's restarts, gaps in its history and dead connections."""

import asyncio
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ollama_fleet.kube import errors, transport
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.kinds import CONFIG_MAP
from ollama_fleet.kube.transport import Json
from tests.support.tcp_gate import TcpGate

pytestmark = pytest.mark.cluster


class Watched:
    """An informer behind a gate, and a client that goes around it."""

    def __init__(self, kube: KubeClient, gate: TcpGate, through: KubeClient) -> None:
        self.kube = kube
        self.gate = gate
        self._through = through
        self.label = f"kube-{uuid.uuid4().hex[:8]}"
        self.informer = Informer(through, CONFIG_MAP, label_selector=f"test={self.label}")
        self.changes: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.informer.add_handler(self._note)
        self._running = asyncio.create_task(self.informer.run())

    async def stop(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._through.close()

    def _note(self, old: Json | None, new: Json | None) -> None:
        shown = new or old
        assert shown is not None
        what = "gone" if new is None else "new" if old is None else "changed"
        self.changes.put_nowait((what, shown["metadata"]["name"]))

    async def apply(self, name: str, value: str = "1") -> Json:
        return await self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "default", "labels": {"test": self.label}},
                "data": {"a": value},
            }
        )

    async def delete(self, obj: Json) -> None:
        await self.kube.delete(CONFIG_MAP, "default", obj["metadata"]["name"], uid=obj["metadata"]["uid"])

    def connections(self) -> int:
        """To the gate, established and not closed from here."""
        lines = (line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:])
        return sum(
            int(remote.split(":")[1], 16) == self.gate.port and state == "01" for _, _, remote, state, *_ in lines
        )

    async def next(self, *, within: float = 30) -> tuple[str, str]:
        return await asyncio.wait_for(self.changes.get(), within)


@pytest.fixture
async def watched(control_plane: Any, tmp_path: Path) -> AsyncIterator[Watched]:
    direct = str(control_plane.kubeconfig)
    config = yaml.safe_load(Path(direct).read_text())
    cluster = config["clusters"][0]["cluster"]
    server = urlsplit(cluster["server"])
    assert server.hostname is not None
    async with TcpGate(server.hostname, server.port or 443) as gate:
        cluster["server"] = f"https://127.0.0.1:{gate.port}"
        gated = tmp_path / "gated"
        gated.write_text(json.dumps(config))
        kube = await KubeClient.connect(kubeconfig=direct)
        through = await KubeClient.connect(kubeconfig=str(gated), stall=3, timeout=3)
        watched = Watched(kube, gate, through)
        await asyncio.wait_for(watched.informer.synced.wait(), 30)
        yield watched
        await watched.stop()
        await kube.close()


async def written(watched: Watched, name: str) -> None:
    """Write as soon as the server takes it."""
    async with asyncio.timeout(60):
        while True:
            try:
                await watched.apply(name)
            except (errors.KubeError, ssl.SSLError):
                await asyncio.sleep(0.2)
            else:
                return


async def test_it_goes_on_after_the_server_was_killed(watched: Watched, own_control_plane: Any) -> None:
    await watched.apply("before")
    assert await watched.next() == ("new", "before")
    own_control_plane.processes.kill("kube-apiserver")
    await asyncio.to_thread(own_control_plane.up)
    await written(watched, "after")
    assert await watched.next(within=10) == ("new", "after")
    assert watched.changes.empty(), "what did not change is not told again"


async def test_what_vanished_while_history_was_lost_is_told(watched: Watched, own_control_plane: Any) -> None:
    kept = await watched.apply("kept")
    doomed = await watched.apply("doomed")
    assert {await watched.next(), await watched.next()} == {("new", "kept"), ("new", "doomed")}
    lists = watched.informer.relists
    await watched.gate.close()
    await watched.delete(doomed)
    await watched.apply("kept", "2")
    # A server that starts afresh knows no history from before: the watch gets 410 Gone.
    own_control_plane.processes.kill("kube-apiserver")
    await asyncio.to_thread(own_control_plane.up)
    await watched.gate.open()
    assert {await watched.next(), await watched.next()} == {("changed", "kept"), ("gone", "doomed")}
    assert watched.informer.relists == lists + 1
    assert watched.informer.get("default", "doomed") is None
    assert kept["metadata"]["uid"] == watched.informer.list()[0]["metadata"]["uid"]


async def test_a_short_break_costs_no_new_list(watched: Watched) -> None:
    await watched.apply("one")
    assert await watched.next() == ("new", "one")
    lists = watched.informer.relists
    watched.gate.cut()
    await watched.apply("two")
    assert await watched.next() == ("new", "two")
    assert watched.informer.relists == lists


async def test_a_connection_that_died_in_silence_is_noticed(watched: Watched) -> None:
    await watched.apply("one")
    assert await watched.next() == ("new", "one")
    accepted = watched.gate.accepted
    watched.gate.hold()
    await watched.apply("two")
    with pytest.raises(TimeoutError):
        await watched.next(within=1)
    await asyncio.wait_for(watched.gate.wait_for_connection(accepted + 1), 15)
    await watched.gate.open()
    assert await watched.next() == ("new", "two")


@pytest.mark.skipif(not transport.LEAVES_TLS_OPEN, reason="aiohttp leaves it to this Python, which takes 30 s")
async def test_a_server_that_is_silent_keeps_no_connection_open(watched: Watched) -> None:
    await watched.apply("one")
    assert await watched.next() == ("new", "one")
    assert watched.connections() > 0
    watched.gate.hold()
    await watched.stop()
    assert watched.connections() == 0
