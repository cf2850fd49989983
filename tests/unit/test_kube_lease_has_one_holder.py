"""Candidates on one simulated Lease, each with its own clock that the test moves."""

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ollama_fleet.handlers.options import parse
from ollama_fleet.kube import errors
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.leader import REQUEST_TIMEOUT
from ollama_fleet.kube.lease import Election, Timing
from ollama_fleet.kube.transport import Json


class Server:
    """One Lease with compare-and-swap."""

    def __init__(self) -> None:
        self.lease: Json | None = None
        self.version = 0

    def write(self, obj: Json) -> Json:
        self.version += 1
        self.lease = copy.deepcopy(obj)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return str(self.lease["spec"]["holderIdentity"])


class Client:
    """A candidate's connection; ``fault`` decides what happens to a request: before, after, or None."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.fault: Callable[[str], str | None] = lambda _: None

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        return await self._do("get", lambda: copy.deepcopy(self.server.lease))

    async def create(self, obj: Json) -> Json:
        def create() -> Json:
            if self.server.lease is not None:
                raise errors.AlreadyExists("exists")
            return self.server.write(obj)

        return await self._do("create", create)

    async def replace(self, obj: Json) -> Json:
        def replace() -> Json:
            lease = self.server.lease
            if lease is None:
                raise errors.NotFound("gone")
            if lease["metadata"]["resourceVersion"] != obj["metadata"]["resourceVersion"]:
                raise errors.Conflict("stale")
            return self.server.write(obj)

        return await self._do("replace", replace)

    async def _do(self, verb: str, action: Callable[[], Any]) -> Any:
        fault = self.fault(verb)
        if fault == "before":
            raise errors.Unavailable("refused")
        answer = action()
        if fault == "after":
            raise errors.Timeout("the answer is lost")
        return answer


class Candidate:
    """An election whose sleeps only move its clock; ``steps`` bounds a run."""

    def __init__(self, server: Server, identity: str, rng: random.Random | None = None) -> None:
        self.now = 0.0
        self.client = Client(server)
        self.steps = 0
        self.election = Election(
            self.client,
            namespace="ns",
            name="operator",
            identity=identity,
            clock=lambda: self.now,
            sleep=self.sleep,
            rng=rng,
        )

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.steps -= 1
        if self.steps <= 0:
            raise asyncio.CancelledError

    async def run(self, what: Callable[[], Awaitable[None]], *, steps: int = 20) -> bool:
        """True if it ended by itself."""
        self.steps = steps
        try:
            await what()
        except asyncio.CancelledError:
            return False
        return True

    async def acquire(self, *, steps: int = 20) -> bool:
        return await self.run(self.election.acquire, steps=steps)

    async def hold(self, *, steps: int = 20) -> bool:
        """True if the Lease was lost."""
        return await self.run(self.election.hold, steps=steps)


def pair(rng: random.Random | None = None) -> tuple[Server, Candidate, Candidate]:
    server = Server()
    return server, Candidate(server, "one", rng), Candidate(server, "two", rng)


async def test_the_first_takes_it_and_keeps_it() -> None:
    server, one, _two = pair()
    assert await one.acquire()
    assert not await one.hold(steps=50)
    assert one.now >= 100
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 0
    assert server.holder == "one"


async def test_another_waits_as_long_as_the_holder_renews() -> None:
    server, one, two = pair()
    await one.acquire()
    for _ in range(30):
        await one.hold(steps=2)
        assert not await two.acquire(steps=2)
    assert server.holder == "one"


async def test_a_silent_holder_is_replaced_after_the_lease_time_by_the_other_s_own_clock() -> None:
    server, one, two = pair()
    await one.acquire()
    two.now = 1e6
    assert await two.acquire(steps=100)
    assert 15 < two.now - 1e6 <= 15 + 2 * 3
    assert server.holder == "two"
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 1


async def test_the_old_holder_notices_at_its_next_renewal() -> None:
    server, one, two = pair()
    await one.acquire()
    await two.acquire(steps=100)
    assert await one.hold()
    assert one.election.renewed_at is None
    assert one.now <= 3
    assert server.holder == "two"


async def test_a_holder_cut_off_gives_up_before_the_other_may_take_over() -> None:
    _, one, _ = pair()
    await one.acquire()
    one.client.fault = lambda _: "before"
    assert await one.hold()
    # The last write at 0; nobody else may take the Lease before 15.
    assert 10 <= one.now <= 11


async def test_a_request_that_hangs_does_not_hold_up_giving_up() -> None:
    _server, one, _ = pair()
    await one.acquire()
    one.now = 9.99

    async def hang(obj: Json) -> Json:
        await asyncio.Event().wait()
        return obj

    one.election._timing = Timing(retry=0.001)
    one.client.replace = hang  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        assert await one.hold()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fault", ["before", "after"])
async def test_a_renewal_that_got_no_answer_is_no_loss(fault: str, seed: int) -> None:
    server, one, _ = pair(random.Random(seed))
    await one.acquire()
    lost = iter([None, fault])

    def hang(verb: str) -> str | None:
        found = next(lost, None) if verb == "replace" else None
        one.now += REQUEST_TIMEOUT if found else 0.1
        return found

    one.client.fault = hang
    assert not await one.hold(steps=10)
    assert server.holder == "one"


async def test_a_first_write_whose_answer_was_lost_is_found_again() -> None:
    server, one, _ = pair()
    lost = iter(["after"])
    one.client.fault = lambda verb: next(lost, None) if verb == "create" else None
    assert await one.acquire()
    assert server.holder == "one"


async def test_a_deleted_lease_is_lost() -> None:
    server, one, _ = pair()
    await one.acquire()
    server.lease = None
    assert await one.hold()


async def test_released_it_goes_to_the_next_at_once() -> None:
    server, one, two = pair()
    await one.acquire()
    assert not await two.acquire(steps=1)
    await one.election.release()
    before = two.now
    assert await two.acquire()
    assert two.now == before
    assert server.holder == "two"
    assert await one.hold(), "who released it does not hold it"


@pytest.mark.parametrize("stored", ["before the release", "in the midst of it"])
async def test_a_renewal_that_was_broken_off_does_not_keep_the_next_waiting(stored: str) -> None:
    server, one, two = pair()
    await one.acquire()
    assert not await two.acquire(steps=1)

    def late(verb: str) -> None:
        if verb == "replace":
            one.client.fault = lambda _: None
            renew()

    def renew() -> None:
        assert server.lease is not None
        server.write(server.lease)

    if stored == "before the release":
        renew()
    else:
        one.client.fault = late
    await one.election.release()
    before = two.now
    assert await two.acquire()
    assert two.now == before


async def test_one_stopped_while_it_takes_the_lease_gives_it_back() -> None:
    server, one, two = pair()
    # The answer to the write never comes.
    one.client.fault = lambda verb: "after" if verb == "create" else None
    assert not await one.acquire(steps=1)
    assert server.holder == "one"
    await one.election.release()
    assert await two.acquire(steps=1)
    assert two.now == 0


async def test_who_comes_back_under_its_name_has_it_at_once() -> None:
    server, one, _ = pair()
    await one.acquire()
    again = Candidate(server, "one")
    assert await again.acquire(steps=1)
    assert again.now == 0
    assert server.lease is not None
    assert server.lease["spec"]["leaseTransitions"] == 0


def test_two_processes_on_one_host_have_two_names_and_a_pod_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POD_NAME", raising=False)
    assert parse(["--fleet-image=x"]).identity != parse(["--fleet-image=x"]).identity
    monkeypatch.setenv("POD_NAME", "operator-0")
    assert parse(["--fleet-image=x"]).identity == "operator-0"


async def test_one_who_lost_it_does_not_release_the_other_s() -> None:
    server, one, two = pair()
    await one.acquire()
    await two.acquire(steps=100)
    await one.election.release()
    assert server.holder == "two"


async def test_what_others_wrote_on_the_lease_stays() -> None:
    server, one, _ = pair()
    await one.acquire()
    await one.election.release()
    assert server.lease is not None
    server.lease["metadata"]["labels"] = {"kept": "yes"}
    server.write(server.lease)
    assert await one.acquire()
    assert server.lease["metadata"]["labels"] == {"kept": "yes"}
