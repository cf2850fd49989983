"""The server side of a relay: asyncio protocol, httptools as the parser, answers streamed with back-pressure."""

import asyncio
from typing import Final

from ollama_fleet.relay.connection import Connection, Listener
from ollama_fleet.relay.exchange import Handler

IDLE_SECONDS: Final = 75.0
"""How long a connection may stay open between requests, or a request take to arrive."""
STALL_SECONDS: Final = 60.0
"""How long a client may take nothing of its answer before it is given up: it holds a slot."""


class RelayServer:
    """Listens and hands every request to one handler, one at a time per connection."""

    def __init__(
        self,
        handler: Handler,
        *,
        idle_seconds: float = IDLE_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        max_connections: int = 4096,
    ) -> None:
        """``handler`` answers an exchange; what it raises becomes an answer or breaks the connection."""
        self._listener = Listener(handler, idle_seconds, stall_seconds, max_connections)
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._listener), host or None, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self, *, grace: float) -> None:
        """Take no more connections, let exchanges under way end for ``grace`` seconds, then break them."""
        listener, clock = self._listener, asyncio.get_running_loop().time
        listener.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(listener.connections):
            connection.close_if_idle()
        deadline = clock() + grace
        while listener.connections and clock() < deadline:
            await asyncio.sleep(0.05)
        for connection in list(listener.connections):
            connection.abort()
