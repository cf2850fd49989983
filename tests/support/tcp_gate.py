"""A TCP gate between a client and a server: open, closed (refused and cut), or silent (held without a word)."""

import asyncio
import contextlib
from typing import Self


class TcpGate:
    """Listens and forwards bytes both ways; TLS passes through untouched."""

    def __init__(self, host: str, port: int, *, listen: str = "127.0.0.1", bytes_per_second: int | None = None) -> None:
        """``bytes_per_second`` holds for all connections together."""
        self.accepted = 0
        self.forwarded = 0
        """Bytes from the server to its clients."""
        self._listen = listen
        self._rate = bytes_per_second
        self._pace = asyncio.Lock()
        self._arrival = asyncio.Condition()
        self._target = (host, port)
        self._flow = asyncio.Event()
        self._flow.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def port(self) -> int:
        """Stays the same over ``close`` and ``open``."""
        return self._port

    async def open(self) -> None:
        """Accept connections and let bytes flow."""
        self._flow.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self._listen, self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse new connections and cut the open ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self) -> None:
        """Pass nothing on and say nothing, as a dead path does."""
        self._flow.clear()

    def cut(self) -> None:
        """Cut the open connections; new ones are taken."""
        self._flow.set()
        for task in self._tasks:
            task.cancel()

    async def wait_for_connection(self, number: int) -> None:
        """Until ``number`` connections were accepted since the start."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: self.accepted >= number)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._arrival:
            self.accepted += 1
            self._arrival.notify_all()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, far_writer))
                    group.create_task(self._answer(far_reader, writer))
            finally:
                await _drop(far_writer)
        except* (OSError, EOFError):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            await _drop(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._flow.wait()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(16384):
            await self._flow.wait()
            if self._rate:
                async with self._pace:
                    await asyncio.sleep(len(data) / self._rate)
            self.forwarded += len(data)
            writer.write(data)
            await writer.drain()
        raise EOFError


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
