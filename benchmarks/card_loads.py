"""Loads on a GPU of this machine: a real Ollama, models of true shapes, and the driver's count of what they take.

The files are sparse: all weights are zero, which takes as much memory as any. Each model is loaded, then asked with
half its context, so that what is allocated with the first request is in the figures too.
"""

import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import httpx

from ollama_fleet.agent.nvml import Nvml
from ollama_fleet.agent.system import system_memory
from ollama_fleet.sizing.estimate import MIB
from ollama_fleet.sizing.gguf import read_header
from ollama_fleet.sizing.load import Load
from ollama_fleet.sizing.shape import ModelShape, shape_of
from testbed.models.push import CONFIG_TYPE, DEFAULT_HOST, LAYER_PREFIX, MANIFEST_TYPE, digest_of
from testbed.ollama_process import VERSIONS, RealOllama, real_ollama
from tests.support.sparse_models import write

VERSION: Final = VERSIONS[1]
_BUFFER: Final = re.compile(r"(CUDA\d+) (model|KV|RS|compute) buffer size =\s+([\d.]+) MiB")
_HEADER_BYTES: Final = 64 * MIB
_LOAD_SECONDS: Final = 180.0
_GONE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Case:
    """One load."""

    model: str
    context: int
    parallel: int = 1
    kv_type: str = "f16"
    flash_attention: bool = True

    @property
    def load(self) -> Load:
        """As the estimate takes it; Ollama chooses the batch."""
        return Load(self.context, self.parallel, self.kv_type, self.flash_attention)

    @property
    def settings(self) -> tuple[int, str, bool]:
        """What a server is started with."""
        return self.parallel, self.kv_type, self.flash_attention


CASES: Final = (
    *(Case(name, 8192) for name in ("llama", "phi3", "gemma2", "gemma3", "mixtral", "gpt_oss", "falcon_h1", "mamba")),
    *(Case(name, 32768) for name in ("llama", "gemma3", "cohere2", "qwen3moe", "gpt_oss", "deepseek2", "qwen35")),
    *(Case(name, 32768) for name in ("lfm2", "nemotron_h", "granitehybrid")),
    # Its scan runs on the CPU.
    Case("jamba", 2048),
    Case("llama", 131072),
    Case("bert", 512),
    Case("nomic_bert", 2048),
    *(Case(name, 8192, parallel=4) for name in ("llama", "gemma3", "qwen3moe", "gpt_oss", "granitehybrid", "qwen35")),
    *(Case(name, 32768, kv_type="q8_0") for name in ("llama", "gemma3", "qwen3moe", "deepseek2")),
    *(Case(name, 8192, flash_attention=False) for name in ("llama", "gemma2", "deepseek2_heads")),
    Case("qwen3next", 32768),
)


@dataclass(slots=True)
class Measured:
    """MiB by the engine's log and by the driver."""

    weights: float = 0.0
    kv: float = 0.0
    state: float = 0.0
    compute: float = 0.0
    size_vram: float = 0.0
    """By ``/api/ps``."""
    loaded: float = 0.0
    """By the driver for the process, after the load."""
    used: float = 0.0
    """The same after a request that filled a batch."""
    error: str = ""

    @property
    def context(self) -> float:
        """What stands in no buffer."""
        return self.used - self.weights - self.kv - self.state - self.compute


class Card:
    """The machine's first GPU."""

    def __init__(self) -> None:
        """Raises NvmlFailed where there is no driver."""
        self._nvml = Nvml(system_memory=system_memory)
        self.driver, _ = self._nvml.start()

    @property
    def product(self) -> str:
        """Its name."""
        return self._nvml.read(0).devices[0].product

    def used(self) -> float:
        """MiB of its largest process: Ollama also starts short ones that only look for GPUs."""
        return max((one.used or 0 for one in self._nvml.read(0).devices[0].processes), default=0) / MIB

    def wait_empty(self) -> None:
        """Until no process is on it."""
        deadline = time.monotonic() + _GONE_SECONDS
        while self.used():
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds memory of the GPU")
            time.sleep(0.1)


def measure(
    card: Card, cases: Sequence[Case], ollama: Path | None
) -> Iterator[tuple[Case, ModelShape, Measured, float]]:
    """Each case with its model, what was measured, and the seconds; one server for all with the same settings."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        shapes = {name: _install(home / "models", name) for name in dict.fromkeys(case.model for case in cases)}
        for number, (settings, those) in enumerate(groupby(cases, key=lambda case: case.settings)):
            with _server(home / str(number), home / "models", settings, ollama) as server:
                for case in those:
                    card.wait_empty()
                    started = time.monotonic()
                    found = _load(card, server, case)
                    yield case, shapes[case.model], found, time.monotonic() - started


@contextmanager
def _server(home: Path, models: Path, settings: tuple[int, str, bool], ollama: Path | None) -> Iterator[RealOllama]:
    parallel, kv_type, flash = settings
    home.mkdir()
    env = {
        "OLLAMA_NUM_PARALLEL": str(parallel),
        "OLLAMA_KV_CACHE_TYPE": kv_type,
        "OLLAMA_FLASH_ATTENTION": str(int(flash)),
        "OLLAMA_KEEP_ALIVE": "-1",
    }
    with real_ollama(VERSION, home, models=models, env=env, program=ollama) as server:
        yield server


def _install(models: Path, name: str) -> ModelShape:
    """Put a sparse model into a store, under names that are no real digests: nobody reads tens of GiB of zeros."""
    blobs = models / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    weights = digest_of(name.encode())
    file = blobs / weights.replace(":", "-")
    write(file, name, spoken=True)
    with file.open("rb") as handle:
        header = read_header(handle.read(_HEADER_BYTES))
    shape = shape_of(header, file_bytes=file.stat().st_size)
    family = shape.architecture
    config = json.dumps({"model_format": "gguf", "model_family": family, "model_families": [family]}).encode()
    (blobs / digest_of(config).replace(":", "-")).write_bytes(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": LAYER_PREFIX + "model", "digest": weights, "size": shape.file_bytes}],
    }
    path = models / "manifests" / DEFAULT_HOST / "library" / name / "latest"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    return shape


def _load(card: Card, server: RealOllama, case: Case) -> Measured:
    """Load a model, ask it, and unload it. A load that fails is a record too."""
    found, start = Measured(), server.log.stat().st_size
    with httpx.Client(base_url=server.url, timeout=_LOAD_SECONDS) as http:
        try:
            _ask(http, case, "")
            found.loaded = card.used()
            _ask(http, case, "a" * (case.context // 2))
            found.used = card.used()
            (entry,) = http.get("/api/ps").raise_for_status().json()["models"]
            found.size_vram = entry["size_vram"] / MIB
            if not found.used:
                found.error = "the driver counts nothing: this Ollama does not use the GPU"
        except (httpx.HTTPError, ValueError) as error:
            answer = error.response.text if isinstance(error, httpx.HTTPStatusError) else ""
            found.error = f"{error!r} {answer}"[:300]
        with server.log.open("rb") as log:
            log.seek(start)
            _read_buffers(log.read().decode(errors="replace"), found)
        http.post("/api/generate", json={"model": case.model, "keep_alive": 0})
    return found


def _ask(http: httpx.Client, case: Case, prompt: str) -> None:
    if case.model.endswith("bert"):
        body: dict[str, Any] = {"input": prompt, "options": {"num_ctx": case.context}}
        path = "/api/embed"
    else:
        body = {"prompt": prompt, "raw": True, "stream": False}
        body["options"] = {"num_ctx": case.context, "num_predict": 2, "temperature": 0}
        path = "/api/generate"
    http.post(path, json={"model": case.model, "keep_alive": -1, **body}).raise_for_status()


def _read_buffers(log: str, found: Measured) -> None:
    names = {"model": "weights", "KV": "kv", "RS": "state", "compute": "compute"}
    for _, kind, size in _BUFFER.findall(log):
        setattr(found, names[kind], getattr(found, names[kind]) + float(size))
