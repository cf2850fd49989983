"""A whole sidecar on loopback, in the test's own event loop, over a store as the puller leaves it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase
from ollama_fleet.relay.server import RelayServer
from ollama_fleet.relay.upstream import Upstream
from ollama_fleet.sidecar.admin import Admin
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.door import Door
from ollama_fleet.sidecar.metrics import SidecarMetrics
from ollama_fleet.sidecar.ollama import Ollama
from ollama_fleet.sidecar.warmer import Warmer
from ollama_fleet.store.layout import BlobDirectory
from testbed.models import push

PATIENCE = 30.0
"""Seconds after which a wait is a failure."""


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


def pulled(models: Path, made: push.Image) -> str:
    """Put an image's blobs into a store as the puller does; returns the digest of its source manifest."""
    blobs = BlobDirectory(models / "blobs")
    blobs.prepare()
    for content in (*made.blobs.values(), made.manifest):
        blobs.put(content)
    return made.digest


def group_model(name: str, digest: str, **fields: Any) -> GroupModel:
    values = {"name": name, "registry": "r.test", "repository": f"library/{name}", "manifest_digest": digest, **fields}
    return GroupModel.model_validate(values)


def group_config(*models: GroupModel, **fields: Any) -> GroupConfig:
    """``fields`` are not validated: a test may set times that a user may not."""
    made = GroupConfig(namespace="n", deployment="d", group="g", ollama_version="0.32.3", models=models)
    return made.model_copy(update=fields)


@dataclass
class Sidecar:
    """The parts of one, and clients of its two doors."""

    board: Board
    door: Door
    warmer: Warmer
    data: httpx.AsyncClient
    admin: httpx.AsyncClient
    admin_server: RelayServer

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the board to show something."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await self.board.change()

    async def in_force(self, config: GroupConfig) -> None:
        """Apply a configuration until it is complete, as the process does."""
        async with asyncio.timeout(PATIENCE):
            while not await self.warmer.apply(config):
                await asyncio.sleep(0.05)

    def phase(self, name: str) -> ModelPhase:
        return self.board.warmth[name].phase

    def phases(self) -> dict[str, ModelPhase]:
        return {name: known.phase for name, known in self.board.warmth.items()}

    async def warm(self, *names: str) -> None:
        """Wait until these are warm."""
        await self.until(lambda: all(self.phase(name) is ModelPhase.WARM for name in names))

    async def post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        return await self.data.post(path, json=body)


@asynccontextmanager
async def sidecar(
    url: str, models: Path, *, clock: Callable[[], float] | None = None, warming: bool = True
) -> AsyncIterator[Sidecar]:
    """The sidecar of the Ollama at ``url`` and its store; nothing is configured yet."""
    address = urlsplit(url)
    upstream = Upstream(address.hostname or "", address.port or 0)
    board, ollama = Board(), Ollama(upstream)
    metrics = SidecarMetrics(board)
    door = Door(board, upstream, metrics)
    timing = {} if clock is None else {"clock": clock}
    warmer = Warmer(board, ollama, models, **timing)
    data, admin = RelayServer(door), RelayServer(Admin(board, ollama, door, metrics, **timing))
    ports = [await server.start("127.0.0.1", 0) for server in (data, admin)]
    loop = asyncio.create_task(warmer.run()) if warming else None
    data_url, admin_url = (f"http://127.0.0.1:{port}" for port in ports)
    try:
        async with (
            httpx.AsyncClient(base_url=data_url, timeout=PATIENCE) as to_data,
            httpx.AsyncClient(base_url=admin_url, timeout=PATIENCE) as to_admin,
        ):
            yield Sidecar(board, door, warmer, to_data, to_admin, admin)
    finally:
        if loop is not None:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
        await data.stop(grace=0)
        await admin.stop(grace=0)
