"""kopf, embedded in a thread of its own.

kopf takes every task of its loop that it did not find at the start for its own and cancels it when it
ends, and it installs signal handlers: with a loop in another thread, neither touches the operator, and an
end of kopf (it gives up on an unknown watch error, for one) is a restart of the shell and not of the process.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, cast

import kopf

from ollama_fleet.handlers.login import Login
from ollama_fleet.handlers.registry import Enqueue, build_registry
from ollama_fleet.kube.backoff import Backoff
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.transport import Credentials
from ollama_fleet.telemetry.health import Heartbeat

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 5.0
STOP_SECONDS: Final = 10.0
_GOODBYE_SECONDS: Final = 0.25
"""As in https://docs.aiohttp.org/en/stable/client_advanced.html#graceful-shutdown"""


async def run_shell(
    *,
    enqueue: Enqueue,
    on_started: Callable[[], object],
    stop: asyncio.Event,
    heart: Heartbeat,
    kubeconfig: str | None = None,
    context: str | None = None,
    namespace: str | None = None,
) -> None:
    """Run kopf until ``stop`` is set, and again after a pause when it ends by itself.

    ``enqueue`` and ``on_started`` (after each start) are called in the caller's loop; ``heart`` beats every 5 s in
    kopf's thread and rests while there is none. The CRDs must exist: kopf looks for the kinds only once.
    ``namespace`` None means all.
    """
    loop = asyncio.get_running_loop()

    def forward(kind: Kind, where: str, name: str) -> None:
        # The caller's loop may have ended while kopf still winds down.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(enqueue, kind, where, name)

    def announce() -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(on_started)

    backoff = Backoff(first=1, limit=60)
    failures = 0
    while not stop.is_set():
        credentials = Credentials(kubeconfig=kubeconfig, context=context)
        registry = build_registry(enqueue=forward, login=Login(credentials), on_started=announce)
        shell = _Shell(registry, namespace=namespace, heart=heart)
        started = loop.time()
        await shell.run(stop)
        if stop.is_set():
            return
        failures = 1 if loop.time() - started > 2 * backoff.limit else failures + 1
        delay = backoff.delay(failures)
        logger.error("kopf ended", extra={"error": repr(shell.error), "retry_seconds": round(delay, 1)})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await stop.wait()


class _Shell:
    """One life of kopf."""

    def __init__(self, registry: kopf.OperatorRegistry, *, namespace: str | None, heart: Heartbeat) -> None:
        self.error: BaseException | None = None
        self._registry = registry
        self._namespaces = [namespace] if namespace else []
        self._heart = heart
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._callers_loop = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Until kopf ends by itself or ``stop`` is set; if cancelled, kopf is told to end and left alone."""
        thread = threading.Thread(target=self._main, name="kopf", daemon=True)
        self._heart.beat()
        thread.start()
        waiting = [asyncio.create_task(event.wait()) for event in (stop, self._ended)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            self._request_stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._ended.wait()
        self._heart.rest()

    def _request_stop(self) -> None:
        self._stopping.set()
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)

    def _main(self) -> None:
        try:
            asyncio.run(self._operate())
        except (Exception, asyncio.CancelledError) as error:
            self.error = error
        finally:
            with contextlib.suppress(RuntimeError):
                self._callers_loop.call_soon_threadsafe(self._ended.set)

    async def _operate(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._stopping.is_set():
            return
        # Made before kopf, so that kopf leaves it alone.
        pulse = asyncio.create_task(self._pulse(), name="pulse")
        try:
            await kopf.operator(
                registry=self._registry,
                standalone=True,
                # Left alone, kopf would ask for the name of the user, which an unprivileged container has not.
                identity=cast(Any, "ollama-fleet"),
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=self._stop,
            )
        finally:
            pulse.cancel()
            # kopf waits for no goodbye of TLS; a loop that ends before it leaves the sockets to the garbage collector.
            await asyncio.sleep(_GOODBYE_SECONDS)

    async def _pulse(self) -> None:
        while True:
            self._heart.beat()
            await asyncio.sleep(HEARTBEAT_SECONDS)
