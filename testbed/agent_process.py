"""The product's agent as a process of its own, between a stand-in for the API server and one for the kubelet."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from testbed.fakes import nvml
from testbed.fakes.agent_api import AgentApi
from testbed.fakes.kubelet import FakeKubelet
from testbed.ports import free_ports

HOST_PIDS: Final = "pid:[4026531836]"
"""What ``/proc/self/ns/pid`` of a process is that sees all of its node."""


def stand_in_proc(folder: Path, *, pids: str = HOST_PIDS) -> Path:
    """A directory that is ``/proc`` to an agent: a node with 125 GiB of memory, half of it used, and no processes."""
    proc = folder / "proc"
    (proc / "self" / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "pid").symlink_to(pids)
    (proc / "meminfo").write_text("MemTotal: 131072000 kB\nMemAvailable: 65536000 kB\n")
    return proc


@contextlib.asynccontextmanager
async def agent_process(
    folder: Path,
    api: AgentApi,
    kubelet: FakeKubelet,
    *,
    driver: Path | None = None,
    stderr: int | None = None,
    **options: object,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The running agent of node ``node-1``, and its port.

    ``driver`` is the state of the fake NVIDIA driver; without it the agent loads the machine's own. ``options`` are
    more of the agent's, with ``_`` for ``-``.
    """
    token = folder / "token"
    token.write_text("secret-token")
    (port,) = free_ports(1)
    given = {"node": "node-1", "bind": "127.0.0.1", "port": port, "api_server": api.url, "token_file": token}
    given |= {"kubelet_socket": kubelet.socket, **options}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ollama_fleet", "agent", *arguments),
        env={**os.environ, **(nvml.environment(driver) if driver else {})},
        stderr=stderr,
    )
    try:
        yield process, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
