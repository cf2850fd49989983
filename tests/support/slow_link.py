"""A slow TCP gate for tests that do not run in an event loop."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.tcp_gate import TcpGate


class SlowLink:
    """A gate whose event loop runs in a thread."""

    def __init__(self, gate: TcpGate, loop: asyncio.AbstractEventLoop) -> None:
        self._gate = gate
        self._loop = loop

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._gate.port

    @property
    def forwarded(self) -> int:
        """Bytes that went to clients."""
        return self._gate.forwarded

    def open(self) -> None:
        """Let connections through."""
        self._do(self._gate.open())

    def close(self) -> None:
        """Cut the open connections and refuse new ones."""
        self._do(self._gate.close())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)


@contextmanager
def slow_link(host: str, port: int, *, listen: str, bytes_per_second: int) -> Iterator[SlowLink]:
    """An open link to ``host:port``."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="slow-link", daemon=True)
    thread.start()

    async def make() -> TcpGate:
        return TcpGate(host, port, listen=listen, bytes_per_second=bytes_per_second)

    link = SlowLink(asyncio.run_coroutine_threadsafe(make(), loop).result(timeout=10), loop)
    link.open()
    try:
        yield link
    finally:
        link.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()
