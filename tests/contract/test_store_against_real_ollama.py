"""What the store writes is what Ollama would have written, and what Ollama reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import httpx
import numpy as np
import pytest

from ollama_fleet.api.group import GroupModel, Modelfile
from ollama_fleet.store.install import install_manifests
from ollama_fleet.store.manifest import Descriptor, parse_manifest
from ollama_fleet.store.puller import ExitCode, run_puller
from testbed.fakes.registry import FakeRegistry
from testbed.ollama_process import VERSIONS, real_ollama
from tests.support.store_support import group, model, settings

pytestmark = pytest.mark.e2e

TEMPLATE = "{{ .System }} {{ .Prompt }}"
SYSTEM = 'You answer with <b>"vram"</b> & tokens.\nAlways.'
PARAMETERS: dict[str, str | int | float | bool | list[str]] = {
    "temperature": 0.25,
    "top_k": 7,
    "repeat_penalty": 1.0,
    "stop": ["<|end|>", "é"],
    "use_mmap": False,
}
SOURCE_PARAMETERS: dict[str, object] = {"temperature": 0.9, "min_p": 1e-7, "num_predict": 128}


@dataclass(frozen=True)
class Ollama:
    models: Path
    http: httpx.Client


@pytest.fixture(params=VERSIONS)
def ollama(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ollama]:
    with real_ollama(request.param, tmp_path) as server, httpx.Client(base_url=server.url, timeout=60) as http:
        yield Ollama(server.models, http)


def weights(directory: Path) -> bytes:
    """A GGUF file that is complete as a file; nobody loads it here."""
    path = directory / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"])
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


async def pulled(ollama: Ollama, directory: Path, **kwargs: object) -> tuple[GroupModel, dict[str, str]]:
    """A model pulled as it is (``source``) and with Modelfile parts (``derived``)."""
    async with FakeRegistry() as registry:
        digest = registry.add_model(weights(directory), params=SOURCE_PARAMETERS)
        derived = model(registry, digest, name="derived", **kwargs)
        config = group(model(registry, digest, name="source"), derived)
        assert await run_puller(config, settings(ollama.models)) is ExitCode.DONE
    return derived, install_manifests(config, ollama.models)


def layers(ollama: Ollama, name: str) -> list[Descriptor]:
    path = ollama.models / "manifests/registry.ollama.ai/library" / name / "latest"
    return list(parse_manifest(path.read_bytes()).layers)


PARTS = {"modelfile": Modelfile(parameters=PARAMETERS, system=SYSTEM, template=TEMPLATE), "context_length": 512}


async def test_layers_equal_those_of_create(ollama: Ollama, tmp_path: Path) -> None:
    await pulled(ollama, tmp_path, **PARTS)
    request = {
        "model": "created",
        "from": "source",
        "stream": False,
        "system": SYSTEM,
        "template": TEMPLATE,
        "parameters": {**PARAMETERS, "num_ctx": 512},
    }
    answer = ollama.http.post("/api/create", json=request)
    assert answer.json() == {"status": "success"}
    assert layers(ollama, "derived") == layers(ollama, "created")


async def test_ollama_reports_our_digests_and_reads_our_parts(ollama: Ollama, tmp_path: Path) -> None:
    _, installed = await pulled(ollama, tmp_path, **PARTS)
    listed = {entry["name"]: entry["digest"] for entry in ollama.http.get("/api/tags").json()["models"]}
    assert listed == {f"{name}:latest": digest.removeprefix("sha256:") for name, digest in installed.items()}
    shown = ollama.http.post("/api/show", json={"model": "derived"}).raise_for_status().json()
    parameters = {tuple(line.split(maxsplit=1)) for line in shown["parameters"].splitlines()}
    expected = {("num_ctx", "512"), ("temperature", "0.25"), ("num_predict", "128"), ("min_p", "1e-07")}
    assert expected <= parameters
    assert (shown["system"], shown["template"]) == (SYSTEM, TEMPLATE)


async def test_a_changed_manifest_is_seen_at_once(ollama: Ollama, tmp_path: Path) -> None:
    derived, before = await pulled(ollama, tmp_path, context_length=512)
    changed = derived.model_copy(update={"context_length": 1024})
    after = install_manifests(group(changed), ollama.models)
    assert after["derived"] != before["derived"]
    listed = ollama.http.get("/api/tags").json()["models"]
    assert [(entry["name"], entry["digest"]) for entry in listed] == [
        ("derived:latest", after["derived"].removeprefix("sha256:"))
    ]
