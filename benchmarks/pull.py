"""The puller against ``ollama pull``: the same bytes, from the same registry, into empty stores on the same disk."""

import asyncio
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from benchmarks.report import Report, Row, cpu_seconds
from ollama_fleet.api.group import GroupConfig, GroupModel
from testbed.fakes.redirect import redirecting
from testbed.models.push import Image, into_registry
from testbed.ollama_process import real_ollama
from testbed.registry import real_registry

_OLLAMA: Final = "0.32.3"
_MEBIBYTES: Final = {True: 256, False: 2048}
_ROUNDS: Final = {True: 1, False: 3}


@dataclass(frozen=True, slots=True)
class Pull:
    """One download."""

    seconds: float
    cpu_seconds: float


def run(*, quick: bool) -> Report:
    """Alternate the two and report medians."""
    size = _MEBIBYTES[quick] * 2**20
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = asyncio.run(_measure(Path(folder), size, rounds=_ROUNDS[quick]))
    gigabytes = size / 1e9
    report = Report("pull: the puller against `ollama pull`", {"Ollama": _OLLAMA, "registry": "distribution 3.0.0"})
    report.rows = [
        Row("speed", "MB/s", gigabytes * 1000 / ours.seconds, gigabytes * 1000 / theirs.seconds),
        Row("CPU", "s/GB", ours.cpu_seconds / gigabytes, theirs.cpu_seconds / gigabytes),
    ]
    report.figures = {
        "bytes": size,
        "seconds": ours.seconds,
        "baseline_seconds": theirs.seconds,
        "cpu_seconds": ours.cpu_seconds,
        "baseline_cpu_seconds": theirs.cpu_seconds,
        "speedup": theirs.seconds / ours.seconds,
    }
    return report


async def _measure(folder: Path, size: int, *, rounds: int) -> tuple[Pull, Pull]:
    with real_registry() as url:
        made = _image(size)
        into_registry(made, url, "library/big")
        ours, theirs = [], []
        async with redirecting(url) as front:
            for _ in range(rounds):
                ours.append(await asyncio.to_thread(_puller, folder, url, made))
                theirs.append(await asyncio.to_thread(_ollama, folder, front))
    return _median(ours), _median(theirs)


def _puller(folder: Path, url: str, made: Image) -> Pull:
    model = GroupModel(
        name="big",
        registry=url.removeprefix("http://"),
        repository="library/big",
        tag="latest",
        manifest_digest=made.digest,
        insecure=True,
    )
    config = GroupConfig(namespace="b", deployment="b", group="g0", ollama_version=_OLLAMA, models=(model,))
    (folder / "group.json").write_text(json.dumps(config.to_wire()))
    store = folder / "ours"
    command = [sys.executable, "-m", "ollama_fleet", "puller", "--mode=init", "--progress-port=0"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run(
        [*command, f"--config={folder / 'group.json'}", f"--models-dir={store}"], check=True, capture_output=True
    )
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(store)
    return Pull(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _ollama(folder: Path, front: str) -> Pull:
    home = folder / "theirs"
    home.mkdir()
    with real_ollama(_OLLAMA, home) as server:
        before, started = cpu_seconds(server.pid), time.monotonic()
        body = {"model": f"{front.removeprefix('http://')}/library/big", "insecure": True}
        last = b""
        with httpx.stream("POST", f"{server.url}/api/pull", json=body, timeout=600) as answer:
            for line in answer.iter_lines():
                last = line.encode()
        if b"success" not in last:
            raise RuntimeError(f"ollama pull ended with {last[:200]!r}")
        pull = Pull(time.monotonic() - started, cpu_seconds(server.pid) - before)
    shutil.rmtree(home)
    return pull


def _image(size: int) -> Image:
    """A model whose weights are noise: neither side looks inside while it pulls."""
    weights, config = os.urandom(size), b"{}"
    blobs = {f"sha256:{hashlib.sha256(content).hexdigest()}": content for content in (config, weights)}
    (config_digest, weights_digest) = blobs
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": config_digest,
            "size": len(config),
        },
        "layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": weights_digest, "size": len(weights)}],
    }
    return Image(json.dumps(manifest).encode(), blobs, weights_digest)


def _median(pulls: list[Pull]) -> Pull:
    return sorted(pulls, key=lambda pull: pull.seconds)[len(pulls) // 2]
