"""Two leader threads on a real Lease, with times a fifth of the product's."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.kinds import LEASE
from ollama_fleet.kube.leader import LeaderThread
from ollama_fleet.kube.lease import Timing

pytestmark = pytest.mark.cluster

TIMING = Timing(duration=3, renew_deadline=2, retry=0.4)


class Replica:
    """A leader thread that notes what happened to it."""

    def __init__(self, kubeconfig: str, lease: str, identity: str) -> None:
        self.events: list[str] = []
        self.thread = LeaderThread(
            namespace="default",
            name=lease,
            identity=identity,
            connect=lambda: KubeClient.connect(kubeconfig=kubeconfig, timeout=1),
            on_started=lambda: self.events.append("started"),
            on_lost=lambda: self.events.append("lost"),
            timing=TIMING,
        )


@pytest.fixture
def replicas(control_plane: Any) -> Iterator[Callable[[str], Replica]]:
    lease = f"kube-{uuid.uuid4().hex[:8]}"
    made: list[Replica] = []

    def make(identity: str) -> Replica:
        replica = Replica(str(control_plane.kubeconfig), lease, identity)
        made.append(replica)
        replica.thread.start()
        return replica

    yield make
    for replica in made:
        replica.thread.stop()


async def until(check: Callable[[], bool], *, within: float) -> float:
    started = time.monotonic()
    async with asyncio.timeout(within):
        while not check():
            await asyncio.sleep(0.02)
    return time.monotonic() - started


async def test_one_leads_and_a_release_hands_over_at_once(replicas: Callable[[str], Replica]) -> None:
    first = replicas("first")
    await until(lambda: first.events == ["started"], within=10)
    second = replicas("second")
    await asyncio.sleep(2 * TIMING.duration)
    assert second.events == []
    await asyncio.to_thread(first.thread.stop)
    assert first.events == ["started"], "who stops on purpose has lost nothing"
    assert await until(lambda: second.thread.is_leader, within=10) < 1.5


async def test_who_is_cut_off_gives_up_before_the_next_takes_over(
    replicas: Callable[[str], Replica], control_plane: Any
) -> None:
    first = replicas("first")
    await until(lambda: first.events == ["started"], within=10)
    second = replicas("second")
    await asyncio.sleep(1)
    # The first replica's own client is broken; the second one's works.
    first.thread._election._client = Broken()
    lost_after = await until(lambda: first.events == ["started", "lost"], within=10)
    assert second.events == []
    took_over_after = lost_after + await until(lambda: second.events == ["started"], within=10)
    assert lost_after <= TIMING.renew_deadline + 1
    assert took_over_after <= TIMING.duration + 2 * TIMING.retry * 1.5 + 1


class Broken:
    """Hangs, as a dead path does."""

    async def get(self, *_: Any) -> None:
        await asyncio.Event().wait()

    async def replace(self, _: Any) -> None:
        await asyncio.Event().wait()


async def test_two_who_start_together_are_never_both_leader(replicas: Callable[[str], Replica]) -> None:
    both = [replicas("a"), replicas("b")]
    await until(lambda: any(replica.events for replica in both), within=10)
    await asyncio.sleep(TIMING.duration)
    assert sorted(replica.events for replica in both) == [[], ["started"]]


async def test_the_lease_says_who_and_since_when(replicas: Callable[[str], Replica], control_plane: Any) -> None:
    first = replicas("first")
    await until(lambda: first.thread.is_leader, within=10)
    kube = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    lease = await kube.get(LEASE, "default", first.thread._name)
    await kube.close()
    assert lease is not None
    spec = lease["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("first", 3, 0)
    assert spec["acquireTime"] <= spec["renewTime"]
