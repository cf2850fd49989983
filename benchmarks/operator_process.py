"""The operator as a process that is measured: its figures from /proc and from its own metrics."""

import asyncio
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from testbed.ports import free_ports

WRITES: Final = frozenset({"create", "apply", "patch", "update", "delete"})
_END_SECONDS: Final = 20
_COUNTER: Final = re.compile(r'ollama_fleet_api_requests_total\{.*resource="(\w+)",verb="(\w+)"\} (\S+)')


@dataclass(frozen=True, slots=True)
class MeasuredOperator:
    """A running operator that leads."""

    pid: int
    port: int

    def requests(self) -> dict[str, int]:
        """Requests by verb so far, without those of the Lease and the events."""
        found: dict[str, int] = dict.fromkeys((*WRITES, "get"), 0)
        for resource, verb, count in _COUNTER.findall(self._metrics()):
            if resource not in {"leases", "events"} and verb in found:
                found[verb] += int(float(count))
        return found

    def writes(self) -> int:
        """Requests that change something so far."""
        return sum(count for verb, count in self.requests().items() if verb in WRITES)

    def leads(self) -> bool:
        """Whether it holds the Lease."""
        return "ollama_fleet_leader 1.0" in self._metrics()

    def _metrics(self) -> str:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5).text
        except httpx.HTTPError:
            return ""


@contextlib.asynccontextmanager
async def operator(kubeconfig: Path, *flags: str) -> AsyncIterator[MeasuredOperator]:
    """Start one and wait until it leads."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ollama_fleet", "operator", "--fleet-image=fleet:1", f"--health-port={port}"]
    with process([*command, f"--kubeconfig={kubeconfig}", *flags]) as started:
        found = MeasuredOperator(started.pid, port)
        await until(found.leads, 30)
        yield found


@contextlib.contextmanager
def process(command: list[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that ends with the context; what it said last is shown when something fails."""
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as started:
        try:
            yield started
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            started.terminate()
            try:
                started.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                started.kill()


async def until(done: Callable[[], bool], seconds: float) -> None:
    """Poll. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s")
        await asyncio.sleep(0.1)


def peak_mebibytes(pid: int) -> float:
    """The most memory that a process had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
