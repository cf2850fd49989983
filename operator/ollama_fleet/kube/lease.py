"""Leader election by a ``coordination.k8s.io`` Lease.

Whether another holder is alive is judged by when *this* process saw the Lease change, on the monotonic
clock: clocks of different machines are never compared. The Lease is no fence: who loses it must stop
writing at once, so ``on_lost`` ends the process.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from ollama_fleet.kube import errors
from ollama_fleet.kube.kinds import LEASE, Kind
from ollama_fleet.kube.transport import Json

logger = logging.getLogger(__name__)

JITTER: Final = 0.5
RETRY_AFTER_FAILURE: Final = 0.5
"""Seconds: a holder whose renewal failed has no time to lose, see :data:`~ollama_fleet.kube.leader.REQUEST_TIMEOUT`."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. A holder that cannot renew for ``renew_deadline`` gives up before others may take over."""

    duration: float = 15.0
    renew_deadline: float = 10.0
    retry: float = 2.0


class LeaseClient(Protocol):
    """The part of the client that an election uses."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""

    async def create(self, obj: Json) -> Json:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""

    async def replace(self, obj: Json) -> Json:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""


class Election:
    """One candidate for one Lease."""

    def __init__(
        self,
        client: LeaseClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """``identity`` must differ between candidates that live at the same time: two of one name would both lead.

        One that comes after another of its name, as a container restarted in its pod, takes the Lease over at once.
        """
        self.identity = identity
        self.renewed_at: float | None = None
        """When this candidate last wrote the Lease as its holder, None while it is not."""
        self._client = client
        self._where = (namespace, name)
        self._timing = timing or Timing()
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._lease: Json | None = None
        self._observed_at = clock()

    async def acquire(self) -> None:
        """Campaign until the Lease is held; failures only delay it."""
        while not await self._attempt():
            await self._pause(self._timing.retry)

    async def hold(self) -> None:
        """Renew; returns when the Lease is lost or could not be renewed within the deadline."""
        held = True
        while self.renewed_at is not None:
            await self._pause(self._timing.retry if held else RETRY_AFTER_FAILURE)
            left = self.renewed_at + self._timing.renew_deadline - self._clock()
            if left <= 0:
                break
            try:
                async with asyncio.timeout(left):
                    held = await self._attempt()
            except TimeoutError:
                break
        self.renewed_at = None

    async def release(self) -> None:
        """Let the next candidate in at once, if this one has the Lease; a write that was broken off may be stored."""
        self.renewed_at = None
        try:
            try:
                await self._give_back()
            except errors.Conflict:
                # That write was stored between the question and the answer.
                await self._give_back()
        except errors.KubeError as error:
            logger.warning("the lease was not released", extra={"error": str(error)})

    async def _give_back(self) -> None:
        lease = await self._observe()
        if lease is not None and _holder(lease) == self.identity:
            spec = {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            await self._client.replace({**lease, "spec": spec})

    async def _attempt(self) -> bool:
        """Take or renew once; True if the Lease is held now."""
        # Counted from before the request: the server may have written long before its answer arrives.
        started = self._clock()
        try:
            held = await self._take()
        except errors.KubeError as error:
            logger.warning("lease", extra={"error": f"{type(error).__name__}: {error}"})
            if isinstance(error, errors.Conflict | errors.NotFound):
                await self._look_again()
            return False
        if held:
            self.renewed_at = started
        return held

    async def _take(self) -> bool:
        current = self._lease if self.renewed_at is not None else await self._observe()
        if current is None:
            self._lease = await self._client.create(self._record(None))
            return True
        if not self._is_free(current):
            return False
        self._lease = await self._client.replace(self._record(current))
        return True

    async def _observe(self) -> Json | None:
        namespace, name = self._where
        lease = await self._client.get(LEASE, namespace, name)
        before = self._lease
        if lease is None or before is None or _version(lease) != _version(before):
            self._observed_at = self._clock()
        self._lease = lease
        return lease

    async def _look_again(self) -> None:
        """Is it still ours (the answer to our own write was lost), or somebody else's, or deleted?"""
        was_leader = self.renewed_at is not None
        try:
            lease = await self._observe()
        except errors.KubeError:
            return
        if was_leader and (lease is None or lease["spec"].get("holderIdentity") != self.identity):
            logger.error("the lease has another holder", extra={"holder": _holder(lease)})
            self.renewed_at = None

    def _is_free(self, lease: Json) -> bool:
        holder = _holder(lease)
        if holder in {"", self.identity}:
            return True
        duration = lease["spec"].get("leaseDurationSeconds") or self._timing.duration
        return self._clock() - self._observed_at > float(duration)

    def _record(self, current: Json | None) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = dict(current["spec"]) if current is not None else {}
        if spec.get("holderIdentity") != self.identity:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + (current is not None)
        spec |= {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "renewTime": now,
        }
        if current is not None:
            return {**current, "spec": spec}
        namespace, name = self._where
        metadata = {"name": name, "namespace": namespace}
        return {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": spec}

    async def _pause(self, seconds: float) -> None:
        await self._sleep(seconds * self._rng.uniform(1, 1 + JITTER))


def _holder(lease: Json | None) -> str:
    return str(lease["spec"].get("holderIdentity") or "") if lease is not None else ""


def _version(lease: Json) -> str:
    return str(lease["metadata"]["resourceVersion"])
