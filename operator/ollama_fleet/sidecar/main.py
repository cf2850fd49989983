"""The sidecar's process."""

import argparse
import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from ollama_fleet import __version__
from ollama_fleet.api import names
from ollama_fleet.relay.server import RelayServer
from ollama_fleet.relay.upstream import Upstream
from ollama_fleet.sidecar.admin import Admin
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.configuration import follow
from ollama_fleet.sidecar.door import Door
from ollama_fleet.sidecar.metrics import SidecarMetrics
from ollama_fleet.sidecar.ollama import Ollama
from ollama_fleet.sidecar.warmer import Warmer
from ollama_fleet.telemetry import logs

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM; the exit code."""
    options = _parse(arguments)
    logs.setup(log_format=options.log_format)
    return uvloop.run(_run(options))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ollama-fleet sidecar", description="Guards, warms and drains the Ollama of a pod."
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path(names.PATH_CONFIG), help="group configuration (default: %(default)s)")
    add("--models", type=Path, default=Path(names.PATH_MODELS), help="the pod's store (default: %(default)s)")
    add("--ollama", default=f"http://127.0.0.1:{names.PORT_OLLAMA}", help="Ollama's address (default: %(default)s)")
    add("--bind", default="", help="address to listen on (default: all)")
    add("--data-port", type=int, default=names.PORT_DATA, help="for clients (default: %(default)s)")
    add("--admin-port", type=int, default=names.PORT_ADMIN, help="for probes and the fleet (default: %(default)s)")
    add("--log-format", choices=("json", "text"), default="json")
    return parser.parse_args(arguments)


async def _run(options: argparse.Namespace) -> int:
    address = urlsplit(options.ollama)
    upstream = Upstream(address.hostname or "127.0.0.1", address.port or names.PORT_OLLAMA)
    board, ollama = Board(), Ollama(upstream)
    metrics = SidecarMetrics(board)
    door = Door(board, upstream, metrics)
    warmer = Warmer(board, ollama, options.models)
    data, admin = RelayServer(door), RelayServer(Admin(board, ollama, door, metrics))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await data.start(options.bind, options.data_port)
    await admin.start(options.bind, options.admin_port)
    logger.info("sidecar starts", extra={"version": __version__})
    async with asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(follow(options.config, warmer.apply)),
            tasks.create_task(warmer.run()),
        ]
        await stop.wait()
        board.draining = board.closed = True
        # Ollama was stopped before this container: its preStop hook has already waited for the streams.
        await data.stop(grace=board.config.drain_seconds if board.config else 0)
        for task in background:
            task.cancel()
    await admin.stop(grace=1)
    logger.info("sidecar stopped")
    return 0
