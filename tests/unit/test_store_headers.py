"""Headers are read where models are, and little more than headers."""

from dataclasses import replace
from pathlib import Path

import pytest

from ollama_fleet.sizing.gguf import InvalidHeader, read_header
from ollama_fleet.sizing.shape import shape_of
from ollama_fleet.store.errors import StoreError, Unreachable
from ollama_fleet.store.headers import file_shape, remote_shape
from ollama_fleet.store.manifest import LAYER_MODEL, LAYER_PROJECTOR, Descriptor, Manifest
from testbed.fakes.registry import FakeRegistry
from testbed.models.catalog import ensure
from tests.support.sparse_models import write
from tests.support.store_support import client, reference
from tests.support.tcp_gate import TcpGate


def manifest(*layers: Descriptor) -> Manifest:
    config = Descriptor("application/vnd.docker.container.image.v1+json", "sha256:" + "0" * 64, 2)
    return Manifest(config=config, layers=layers)


def test_a_sparse_file_of_gigabytes_is_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "gpt-oss.gguf"
    write(path, "gpt_oss")
    shape = file_shape(path)
    assert shape.architecture == "gpt-oss"
    assert shape.file_bytes > 10**10
    assert len({layer.window for layer in shape.layers}) == 2


def test_a_file_that_ends_inside_its_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(ensure("chat").read_bytes()[:5000])
    with pytest.raises(InvalidHeader, match=r"behind the file|inside the header"):
        file_shape(path)


async def test_of_a_large_blob_little_more_than_the_header_is_transferred() -> None:
    raw = ensure("chat").read_bytes()
    async with FakeRegistry() as registry:
        blob = raw + bytes(96 * 2**20)
        digest = registry.add_blob(blob)
        layer = Descriptor(LAYER_MODEL, digest, len(blob))
        async with TcpGate(*_where(registry.address)) as gate, client() as http:
            through = replace(reference(registry), host=f"127.0.0.1:{gate.port}")
            found = await remote_shape(http, through, manifest(layer))
            assert gate.forwarded < 16 * 2**20
    expected = shape_of(read_header(raw), file_bytes=len(blob))
    assert found == expected


async def test_a_projector_counts() -> None:
    async with FakeRegistry() as registry:
        raw = ensure("chat").read_bytes()
        layers = (
            Descriptor(LAYER_MODEL, registry.add_blob(raw), len(raw)),
            Descriptor(LAYER_PROJECTOR, "sha256:" + "1" * 64, 870_000_000),
        )
        async with client() as http:
            found = await remote_shape(http, reference(registry), manifest(*layers))
        assert found.weights.projector == 870_000_000


async def test_what_is_no_gguf_file_and_what_is_not_there_are_told_apart() -> None:
    async with FakeRegistry() as registry, client() as http:
        other = registry.add_blob(b"safetensors" * 1000)
        with pytest.raises(InvalidHeader, match="no GGUF file"):
            await remote_shape(http, reference(registry), manifest(Descriptor(LAYER_MODEL, other, 11_000)))
        missing = Descriptor(LAYER_MODEL, "sha256:" + "f" * 64, 11_000)
        with pytest.raises(StoreError):
            await remote_shape(http, reference(registry), manifest(missing))


async def test_an_answer_that_breaks_off_may_pass() -> None:
    raw = ensure("chat").read_bytes()
    async with FakeRegistry() as registry, client() as http:
        short = registry.add_blob(raw[:4000])
        with pytest.raises(Unreachable, match="inside the header"):
            await remote_shape(http, reference(registry), manifest(Descriptor(LAYER_MODEL, short, len(raw))))


def _where(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
