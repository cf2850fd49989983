"""The sidecar's door against no door: a fake Ollama is asked directly and through the sidecar."""

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from benchmarks.report import Report, Row, cpu_seconds
from ollama_fleet.api.group import GroupConfig, GroupModel
from testbed.models.push import image, into_registry
from testbed.ports import free_ports
from testbed.registry import real_registry

_REQUESTS: Final = {True: 300, False: 3000}
_STREAMS: Final = {True: 10, False: 40}
_TOKENS: Final = 500


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the model."""

    request_ms: float
    chunks_per_second: float


def run(*, quick: bool) -> Report:
    """Ask one after the other, then stream; the sidecar's own CPU time counts."""
    door, direct, per_request, per_chunk = asyncio.run(_measure(_REQUESTS[quick], _STREAMS[quick]))
    report = Report("relay: through the sidecar against directly", {})
    report.rows = [
        Row("latency of a request without streaming", "ms", door.request_ms, direct.request_ms),
        Row("stream", "chunks/s", door.chunks_per_second, direct.chunks_per_second),
        Row("sidecar CPU per request", "ms", per_request),
        Row("sidecar CPU per streamed chunk", "us", per_chunk),
    ]
    report.figures = {
        "request_ms": door.request_ms,
        "baseline_request_ms": direct.request_ms,
        "cpu_ms_per_request": per_request,
        "cpu_us_per_chunk": per_chunk,
        "chunks_per_second": door.chunks_per_second,
        "baseline_chunks_per_second": direct.chunks_per_second,
    }
    return report


async def _measure(requests: int, streams: int) -> tuple[Way, Way, float, float]:
    (port,) = free_ports(1)
    fake = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        group = await asyncio.to_thread(_store, root)
        command = [sys.executable, "-m", "testbed.fakes.ollama", "--store", str(root / "models"), "--port", str(port)]
        with _process(command, f"{fake}/api/version"), _sidecar(root, group, fake) as (url, pid):
            behaviour = {"load_seconds": 0.0, "tokens": _TOKENS, "tokens_per_second": 1e6}
            async with httpx.AsyncClient() as http:
                (await http.post(f"{fake}/_fake/behaviour", json=behaviour)).raise_for_status()
            await _requests(fake, requests // 10)
            await _requests(url, requests // 10)
            direct = await _requests(fake, requests)
            before = cpu_seconds(pid)
            door = await _requests(url, requests)
            per_request = (cpu_seconds(pid) - before) / requests * 1e3
            direct_rate = await _streams(fake, streams)
            before = cpu_seconds(pid)
            door_rate = await _streams(url, streams)
            per_chunk = (cpu_seconds(pid) - before) / (streams * _TOKENS) * 1e6
    return Way(door, door_rate), Way(direct, direct_rate), per_request, per_chunk


async def _requests(url: str, count: int) -> float:
    """Milliseconds of one request without a model, one after the other."""
    async with httpx.AsyncClient(base_url=url) as http:
        started = time.monotonic()
        for _ in range(count):
            (await http.get("/api/version")).raise_for_status()
        return (time.monotonic() - started) / count * 1e3


async def _streams(url: str, count: int) -> float:
    """Chunks a second over one stream after the other."""
    chunks = 0
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        started = time.monotonic()
        for _ in range(count):
            body = {"model": "chat", "prompt": "x", "options": {"num_predict": _TOKENS}}
            async with http.stream("POST", "/api/generate", json=body) as answer:
                async for _line in answer.aiter_lines():
                    chunks += 1
        return chunks / (time.monotonic() - started)


@contextlib.contextmanager
def _sidecar(folder: Path, group: Path, ollama: str) -> Iterator[tuple[str, int]]:
    """A sidecar as a process of its own, warm; its data port and its process id."""
    data, admin = free_ports(2)
    command = [sys.executable, "-m", "ollama_fleet", "sidecar", "--bind=127.0.0.1", f"--ollama={ollama}"]
    command += [f"--config={group}", f"--models={folder / 'models'}", f"--data-port={data}", f"--admin-port={admin}"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_ready(f"http://127.0.0.1:{admin}/readyz")
            yield f"http://127.0.0.1:{data}", process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def _process(command: list[str], url: str) -> Iterator[None]:
    """The fake in a process of its own: it must not share a core with the client."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_ready(url)
            yield
        finally:
            process.terminate()


def _wait_ready(url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} does not become ready")


def _store(folder: Path) -> Path:
    """A store with one tiny model, filled as in a pod; returns the group configuration."""
    made = image("chat")
    with real_registry() as url:
        into_registry(made, url, "library/chat")
        model = GroupModel(
            name="chat",
            registry=url.removeprefix("http://"),
            repository="library/chat",
            tag="latest",
            manifest_digest=made.digest,
            insecure=True,
            parallel=4,
        )
        config = GroupConfig(namespace="b", deployment="b", group="g0", ollama_version="0.32.3", models=(model,))
        group = folder / "group.json"
        group.write_text(json.dumps(config.to_wire()))
        command = [sys.executable, "-m", "ollama_fleet", "puller", "--mode=init", "--progress-port=0"]
        subprocess.run(
            [*command, f"--config={group}", f"--models-dir={folder / 'models'}"], check=True, capture_output=True
        )
    return group
