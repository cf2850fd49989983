"""The election in a thread of its own, with its own event loop and connection.

A main loop that is busy for some seconds must not cost the Lease; that the main loop is alive is the
liveness probe's business.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.lease import Election, Timing

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = 5.0
"""Seconds: after a renewal without an answer two more tries fit in the renew deadline. It takes two where the server
had stored the write: the first only learns so."""


class LeaderThread:
    """``on_started`` and ``on_lost`` are called in the thread; ``on_lost`` must end the process."""

    def __init__(
        self,
        *,
        namespace: str,
        name: str,
        identity: str,
        connect: Callable[[], Awaitable[KubeClient]],
        on_started: Callable[[], object],
        on_lost: Callable[[], None],
        timing: Timing | None = None,
    ) -> None:
        """``connect`` makes the thread's own client, for example ``KubeClient.connect`` with a short timeout."""
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._connect = connect
        self._on_started = on_started
        self._on_lost = on_lost
        self._timing = timing
        self._thread = threading.Thread(target=self._main, name="leader", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = threading.Event()
        self.is_leader = False

    def start(self) -> None:
        """Begin to campaign."""
        self._thread.start()

    def stop(self, *, timeout: float = REQUEST_TIMEOUT) -> None:
        """End the thread and give the Lease back if it is held; call it when nothing writes any more.

        Blocks up to ``timeout`` seconds: from a coroutine, use ``asyncio.to_thread``.
        """
        self._stopping.set()
        loop, task = self._loop, self._task
        if loop is not None and task is not None:
            # A RuntimeError says that the loop has just ended by itself.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)
        self._thread.join(timeout)

    def _main(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        if self._stopping.is_set():
            return
        async with contextlib.AsyncExitStack() as closing:
            try:
                client = await self._connect()
                closing.push_async_callback(client.close)
                await self._lead(client)
            except Exception:
                logger.exception("leader election")
            finally:
                self.is_leader = False
                # Before anything is closed: connections, and threads that asyncio waits for, may hang for minutes.
                if not self._stopping.is_set():
                    self._on_lost()

    async def _lead(self, client: KubeClient) -> None:
        self._election = election = Election(
            client,
            namespace=self._namespace,
            name=self._name,
            identity=self._identity,
            timing=self._timing,
        )
        fields = {"lease": f"{self._namespace}/{self._name}", "identity": self._identity}
        try:
            await election.acquire()
            logger.info("leading", extra=fields)
            self.is_leader = True
            self._on_started()
            await election.hold()
            logger.error("the lease is lost", extra=fields)
        except asyncio.CancelledError:
            await election.release()
            raise
