"""The agent's process."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ollama_fleet import __version__
from ollama_fleet.agent.agent import Agent
from ollama_fleet.agent.apiserver import ACCOUNT, Account, ApiFailed, ApiServer, address
from ollama_fleet.agent.kubelet import SOCKET
from ollama_fleet.agent.nvml import Nvml
from ollama_fleet.agent.pods import Pods
from ollama_fleet.agent.reader import APPLICATION_XIDS, GpuReader
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from ollama_fleet.agent.system import system_memory
from ollama_fleet.api import names
from ollama_fleet.telemetry import logs
from ollama_fleet.telemetry.health import Health
from ollama_fleet.telemetry.http import HttpServer

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM; the exit code."""
    options = _parse(arguments)
    logs.setup(log_format=options.log_format)
    if not options.node:
        sys.stderr.write("ollama-fleet agent: --node or NODE_NAME is needed\n")
        return 2
    try:
        account = Account(options.token_file)
        api = ApiServer.at(options.api_server or address(), account=account, ca_file=options.ca_file)
    except ApiFailed as error:
        sys.stderr.write(f"ollama-fleet agent: {error}\n")
        return 2
    return asyncio.run(_run(options, api))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ollama-fleet agent", description="Reports the GPU memory and the resident models of its node."
    )
    add = parser.add_argument
    add("--node", default=os.environ.get("NODE_NAME", ""), help="name of the node (default: $NODE_NAME)")
    add("--interval", type=float, default=1.0, help="seconds between looks at the GPUs (default: %(default)s)")
    add("--bind", default="", help="address to listen on (default: all)")
    add("--port", type=int, default=names.PORT_AGENT, help="for probes and metrics (default: %(default)s)")
    add("--kubelet-socket", type=Path, default=SOCKET, help="PodResources (default: %(default)s)")
    add("--proc", type=Path, default=Path("/proc"), help="the node's processes (default: %(default)s)")
    add("--sidecar-port", type=int, default=names.PORT_ADMIN, help="admin port of sidecars (default: %(default)s)")
    add("--ignore-xids", type=_numbers, default=APPLICATION_XIDS, help="errors of programs, not of the GPU: 13,31,...")
    add("--api-server", help="URL (default: as the kubelet tells)")
    add("--token-file", type=Path, default=ACCOUNT / "token", help="(default: %(default)s)")
    add("--ca-file", type=Path, default=ACCOUNT / "ca.crt", help="(default: %(default)s)")
    add("--log-format", choices=("json", "text"), default="json")
    return parser.parse_args(arguments)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(part) for part in text.split(",") if part)


async def _run(options: argparse.Namespace, api: ApiServer) -> int:
    reader = GpuReader(Nvml(system_memory=system_memory), ignored_xids=options.ignore_xids)
    agent = Agent(
        reader=reader,
        store=ReportStore(api, options.node),
        pods=Pods(api, options.node),
        slices=Slices(api, options.node),
        socket=options.kubelet_socket,
        proc=options.proc,
        interval=options.interval,
    )
    agent.sidecars.port = options.sidecar_port
    checks = {"look": agent.heartbeat.check, "driver": agent.driver_check}
    health = Health(live=checks, ready=checks)
    server = HttpServer({**health.routes(), "/healthz": health.livez, "/metrics": agent.metrics.answer})
    await server.start(host=options.bind, port=options.port)
    logger.info("agent starts", extra={"version": __version__, "node": options.node})
    running = asyncio.create_task(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        logger.info("agent stops")
    finally:
        await server.stop()
        agent.sidecars.close()
        api.close()
    return 0
