"""A real CNCF registry on loopback, over plain HTTP, with a directory of its own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from testbed.build import ensure
from testbed.ports import free_ports

_CONFIG: Final = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: "{address}"}}
"""
_START_SECONDS: Final = 20.0


class DidNotStart(Exception):
    """The registry ended or stayed silent; the message is the end of its log."""


@contextmanager
def real_registry(directory: Path, *, host: str = "127.0.0.1") -> Iterator[str]:
    """Start one, building it if it is not built. Yields ``http://HOST:PORT``. Raises DidNotStart."""
    program = ensure("registry") / "bin" / "registry"
    address = f"{host}:{free_ports(1)[0]}"
    config = directory / "config.yaml"
    config.write_text(_CONFIG.format(root=directory / "content", address=address))
    log = directory / "registry.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "serve", config], stdout=output, stderr=output)
    try:
        _wait(f"http://{address}", process, log)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v2/", timeout=5).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise DidNotStart(log.read_text(errors="replace")[-3000:])
