"""The fake's listener: start, stop, crash, and the routes that control it."""

import asyncio
import contextlib
import ipaddress
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiohttp import web
from aiohttp.typedefs import Handler

from testbed.fakes.ollama import wire
from testbed.fakes.ollama.behaviour import Behaviour
from testbed.fakes.ollama.library import Library
from testbed.fakes.ollama.routes import Routes
from testbed.fakes.ollama.scheduler import Scheduler
from testbed.ports import free_ports


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived."""

    method: str
    path: str
    body: bytes


class FakeOllama:
    """``async with FakeOllama(models=["chat"]) as fake: fake.url``.

    Control routes, for a fake in another process: ``GET`` and ``POST /_fake/behaviour``, ``POST /_fake/evict``
    with ``{"model": ...}``, ``POST /_fake/crash``, ``GET /_fake/requests``.
    """

    def __init__(
        self,
        *,
        models: tuple[str, ...] | list[str] = (),
        store: Path | None = None,
        behaviour: Behaviour | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        """``models`` are made up by name; ``store`` is an ``OLLAMA_MODELS`` directory, read on each request."""
        self.behaviour = behaviour or Behaviour()
        self.host = host
        self.port = port or free_ports(1)[0]
        self.seen: list[Seen] = []
        self._library = Library(models, store=store)
        self._scheduler = Scheduler(self.behaviour)
        self._runner: web.AppRunner | None = None
        self._listener: socket.socket
        self._crashing: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return f"http://{self.host}:{self.port}"

    @property
    def loads(self) -> int:
        """How often a model was loaded since the start."""
        return self._scheduler.loads

    @property
    def loaded(self) -> list[str]:
        """Names of the models that are loaded now."""
        return [runner.model.name for runner in self._scheduler.loaded()]

    def evict(self, name: str) -> None:
        """A runner is gone, as after a crash of it; nobody asked for it."""
        model = self._library.find(name)
        if model is not None:
            self._scheduler.evict(model)

    async def start(self) -> None:
        """Listen. After ``crash`` on the same port again, with nothing loaded."""
        self._scheduler = Scheduler(self.behaviour)
        app = web.Application(middlewares=[self._middleware], client_max_size=64 * 1024**2)
        Routes(self.behaviour, self._library, self._scheduler).add_to(app.router)
        app.router.add_get("/_fake/behaviour", self._get_behaviour)
        app.router.add_post("/_fake/behaviour", self._set_behaviour)
        app.router.add_post("/_fake/evict", self._evict)
        app.router.add_post("/_fake/crash", self._crash)
        app.router.add_get("/_fake/requests", self._requests)
        # As Go's request context: a client that leaves ends what runs for it.
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._listener = socket.create_server((self.host, self.port))
        await web.SockSite(self._runner, self._listener).start()

    async def crash(self) -> None:
        """Stop listening and break every connection. ``start`` brings it back."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        # asyncio forgets a connection that is accepted while the server closes: nobody would break it. Those accepted
        # before become connections within some turns of the loop.
        asyncio.get_running_loop().remove_reader(self._listener)
        for _ in range(5):
            await asyncio.sleep(0)
        for connection in list(runner.server.connections) if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.crash()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path.startswith("/_fake/"):
            return await handler(request)
        self.seen.append(Seen(request.method, request.path, await request.read()))
        if ipaddress.ip_address(self.host).is_loopback and not _local(request.host):
            return web.Response(status=403)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found")
        except web.HTTPMethodNotAllowed as error:
            return web.Response(status=405, text="405 method not allowed", headers={"Allow": error.headers["Allow"]})

    async def _get_behaviour(self, _: web.Request) -> web.Response:
        return web.json_response(asdict(self.behaviour))

    async def _set_behaviour(self, request: web.Request) -> web.Response:
        try:
            self.behaviour.update(await request.json())
        except KeyError as error:
            return wire.native_error(400, f"unknown: {error.args[0]}")
        return web.json_response(asdict(self.behaviour))

    async def _evict(self, request: web.Request) -> web.Response:
        self.evict((await request.json())["model"])
        return web.json_response(self.loaded)

    async def _crash(self, _: web.Request) -> web.Response:
        # Not awaited: it would wait for this very request.
        self._crashing = asyncio.create_task(self.crash())
        return web.Response()

    async def _requests(self, _: web.Request) -> web.Response:
        seen: list[dict[str, Any]] = [{"method": one.method, "path": one.path} for one in self.seen]
        return web.json_response(seen)


def _local(host: str) -> bool:
    """Whether a server on loopback lets this Host header in (server/routes.go, allowedHostsMiddleware)."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(name.strip("[]"))
        return address.is_loopback or address.is_private or address.is_unspecified
    return name in {"", "localhost"} or name.endswith((".localhost", ".local", ".internal"))
