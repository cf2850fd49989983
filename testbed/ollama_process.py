"""A real Ollama on loopback, with a home and a store of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from testbed.build import ensure
from testbed.ports import free_ports
from testbed.processes import ENDS_WITH_US

VERSIONS: Final = ("0.24.0", "0.32.3")
"""One of each generation."""
ON_GPUS: Final = VERSIONS[1]
"""The one that can be made to believe in fake GPUs."""

_START_SECONDS: Final = 60.0


class DidNotStart(Exception):
    """Ollama ended or stayed silent; the message is the end of its log."""


@dataclass(frozen=True, slots=True)
class RealOllama:
    """A running server."""

    url: str
    version: str
    models: Path
    """Its ``OLLAMA_MODELS``."""
    log: Path
    pid: int


@contextmanager
def real_ollama(
    version: str,
    directory: Path,
    *,
    models: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: Path | None = None,
) -> Iterator[RealOllama]:
    """Start one, building it if it is not built; it ends with the context.

    ``directory`` takes its home and its log; ``models`` is its store, ``directory/models`` if not given. ``env`` is
    added to what it gets. ``program`` is one that is installed, e.g. with CUDA. Raises DidNotStart.
    """
    program = program or ensure(f"ollama-{version}") / "bin" / "ollama"
    (port,) = free_ports(1)
    store = models or directory / "models"
    store.mkdir(parents=True, exist_ok=True)
    log = directory / "ollama.log"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(store),
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "LLAMA_ARG_CACHE_RAM": "0",
        **(env or {}),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*ENDS_WITH_US, program, "serve"], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    server = RealOllama(f"http://127.0.0.1:{port}", version, store, log, process.pid)
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # One that was killed leaves its engines running.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _wait(server: RealOllama, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{server.url}/api/version", timeout=5).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise DidNotStart(server.log.read_text(errors="replace")[-3000:])
