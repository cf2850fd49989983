"""The thread that holds the Lease, on a client that hangs."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from ollama_fleet.kube import errors
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.leader import LeaderThread
from ollama_fleet.kube.lease import Timing
from ollama_fleet.kube.transport import Json


class Client:
    """Its first write works; a later one, and ``close`` if asked to, wait for ``let_go``."""

    def __init__(self, *, closes: bool) -> None:
        self.let_go = threading.Event()
        self.closes = closes

    async def get(self, *_: Any) -> None:
        return None

    async def create(self, obj: Json) -> Json:
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": "1"}}

    async def replace(self, obj: Json) -> Json:
        # As a look-up of a name does: cancelling it leaves the thread where it is.
        await asyncio.get_running_loop().run_in_executor(None, self.let_go.wait)
        return obj

    async def close(self) -> None:
        while not (self.closes or self.let_go.is_set()):
            await asyncio.sleep(0.01)


class Bench:
    def __init__(self, client: Client, connect: Any) -> None:
        self.client = client
        self.events: list[str] = []
        self.lost = threading.Event()
        self.thread = LeaderThread(
            namespace="ns",
            name="operator",
            identity="one",
            connect=connect,
            on_started=lambda: self.events.append("started"),
            on_lost=self.lose,
            timing=Timing(duration=0.3, renew_deadline=0.2, retry=0.01),
        )

    def lose(self) -> None:
        self.events.append("lost")
        self.lost.set()


@pytest.fixture(params=[True, False])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    client = Client(closes=request.param)

    async def connect() -> KubeClient:
        return cast(KubeClient, client)

    bench = Bench(client, connect)
    yield bench
    client.let_go.set()
    bench.thread.stop()


def test_a_lost_lease_is_told_whatever_still_hangs(bench: Bench) -> None:
    bench.thread.start()
    assert bench.lost.wait(5)
    assert not bench.thread.is_leader
    bench.client.let_go.set()
    bench.thread._thread.join(5)
    assert bench.events == ["started", "lost"], "once"


def test_who_stops_on_purpose_has_lost_nothing(bench: Bench) -> None:
    bench.client.let_go.set()
    bench.thread.start()
    while not bench.thread.is_leader:
        threading.Event().wait(0.01)
    bench.thread.stop()
    assert bench.events == ["started"]


@pytest.mark.parametrize("error", [errors.Unauthorized("no token"), KeyError("a bug"), asyncio.CancelledError()])
def test_an_election_that_cannot_even_begin_ends_the_process(error: BaseException) -> None:
    async def connect() -> KubeClient:
        raise error

    bench = Bench(Client(closes=True), connect)
    bench.thread.start()
    assert bench.lost.wait(5)
    bench.thread._thread.join(5)
    assert bench.events == ["lost"]
