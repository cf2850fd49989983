"""Estimates against what llama.cpp reserves: its own dry run on models with true shapes and no data."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_fleet.sizing.blocks import Habits
from ollama_fleet.sizing.cache import kv_bytes, state_bytes
from ollama_fleet.sizing.estimate import MIB, graph_bytes
from ollama_fleet.sizing.gguf import read_header
from ollama_fleet.sizing.load import Engine, Load, slots
from ollama_fleet.sizing.shape import ModelShape, shape_of
from testbed.build import ensure
from tests.support.sparse_models import MODELS, write

pytestmark = pytest.mark.e2e

LOADS = {
    "8k": Load(context=8192, batch=512),
    "32k, batch of 2048": Load(context=32768, batch=2048),
    "4 slots of 16k": Load(context=16384, parallel=4, batch=1024),
    "no flash attention": Load(context=8192, batch=512, flash_attention=False),
    "q8_0": Load(context=32768, kv_type="q8_0", batch=512),
}
KV_TYPES = ("f32", "bf16", "q5_0", "q5_1", "q4_0", "q4_1", "iq4_nl")
GAPS = {
    ("deepseek2_heads", "32k, batch of 2048"): 0.14,
    ("nemotron_h", "32k, batch of 2048"): 0.12,
    ("qwen3next", "q8_0"): 0.12,
}
"""Of 110 cases, where a gap is one tensor's larger or smaller than in the real order of all layers."""


ON_CPU = Habits(half_copies=False)


@dataclass(frozen=True, slots=True)
class Reserved:
    """MiB that llama.cpp wants; it prints whole ones."""

    weights: int
    cache: int
    compute: int


@pytest.fixture(scope="module", params=list(MODELS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def file(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("sparse") / f"{name}.gguf"
    write(path, name)
    return path


def reserved(file: Path, load: Load, count: int) -> Reserved:
    command = [ensure("llama-cpp") / "bin" / "llama-fit-params", "-m", file, "--fit-print", "on", "--no-repack"]
    command += ["-c", load.context * count, "-np", count, "-b", load.batch, "-ub", load.batch]
    command += ["-fa", "on" if load.flash_attention else "off", "-ctk", load.kv_type, "-ctv", load.kv_type]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("Host ")]
    assert lines, done.stderr[-2000:]
    return Reserved(*(int(number) for number in lines[0][1:]))


def shape(file: Path) -> ModelShape:
    with file.open("rb") as handle:
        header = read_header(handle.read(1 << 20))
    return shape_of(header, file_bytes=file.stat().st_size)


@pytest.mark.parametrize("options", LOADS)
def test_weights_cache_and_compute_buffer(name: str, file: Path, options: str) -> None:
    model, load = shape(file), LOADS[options]
    if model.encoder:
        load = Load(context=512, batch=512, flash_attention=load.flash_attention)
    count = slots(model, load)
    theirs = reserved(file, load, count)
    weights = model.weights
    # On the CPU nothing is copied: a tied output is the token embeddings.
    tied = weights.host if weights.gpu + weights.host > model.file_bytes else 0
    assert (weights.gpu + weights.host - tied) / MIB == pytest.approx(theirs.weights, rel=0.001, abs=1)
    cache = kv_bytes(model, load, Engine.LLAMA_SERVER) + state_bytes(model, load)
    assert cache / MIB == pytest.approx(theirs.cache, rel=0.001, abs=1)
    # The dry run wants logits of the whole batch, and on the CPU the input embeddings have a buffer of their own.
    compute = graph_bytes(model, load, Engine.LLAMA_SERVER, outputs=load.batch or 0, habits=ON_CPU)
    compute += 4 * model.embedding_length * (load.batch or 0)
    assert compute / MIB == pytest.approx(theirs.compute, rel=GAPS.get((name, options), 0.10), abs=1)


@pytest.mark.parametrize("kind", KV_TYPES)
def test_caches_of_all_types(kind: str, tmp_path: Path) -> None:
    write(tmp_path / "llama.gguf", "llama")
    model, load = shape(tmp_path / "llama.gguf"), Load(context=8192, batch=512, kv_type=kind)
    theirs = reserved(tmp_path / "llama.gguf", load, 1)
    assert kv_bytes(model, load, Engine.LLAMA_SERVER) / MIB == pytest.approx(theirs.cache, rel=0.001, abs=1)
    compute = (
        graph_bytes(model, load, Engine.LLAMA_SERVER, outputs=512, habits=ON_CPU) + 4 * model.embedding_length * 512
    )
    assert compute / MIB == pytest.approx(theirs.compute, rel=0.10, abs=1)
