"""Manifests are parsed strictly; names map to the paths that Ollama reads."""

import json
from pathlib import Path

import pytest

from ollama_fleet.store.errors import InvalidManifest, InvalidModelfile
from ollama_fleet.store.layout import ManifestDirectory
from ollama_fleet.store.manifest import LAYER_MODEL, digest_of, parse_manifest, require_model

DIGEST = "sha256:" + "a" * 64
BLOB = {"mediaType": LAYER_MODEL, "digest": DIGEST, "size": 1}
OTHER = {**BLOB, "digest": "sha256:" + "b" * 64}
GOOD = {"schemaVersion": 2, "config": BLOB, "layers": [BLOB]}


@pytest.mark.parametrize(
    ("wire", "problem"),
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        ({"schemaVersion": 2, "manifests": []}, "index of images"),
        ({**GOOD, "schemaVersion": 1}, "schema 2"),
        ({**GOOD, "layers": None}, "schema 2"),
        ({**GOOD, "layers": [BLOB] * 4097}, "4096 layers"),
        ({**GOOD, "config": None}, "config is not an object"),
        ({**GOOD, "layers": [BLOB, {**BLOB, "digest": "sha256:../../etc"}]}, "layer 1 has no sha256 digest"),
        ({**GOOD, "layers": [{**BLOB, "digest": DIGEST.upper()}]}, "layer 0 has no sha256 digest"),
        ({**GOOD, "layers": [{**BLOB, "size": -1}]}, "layer 0 has no usable size"),
        ({**GOOD, "layers": [{**BLOB, "size": 1 << 60}]}, "layer 0 has no usable size"),
        ({**GOOD, "layers": [BLOB, {**OTHER, "size": 1 << 45}]}, "all layers have no usable size"),
        ({**GOOD, "layers": [{**BLOB, "size": "1"}]}, "layer 0 has no usable size"),
        ({**GOOD, "layers": [{**BLOB, "mediaType": 1}]}, "layer 0 has no media type"),
    ],
)
def test_what_is_no_manifest_of_a_model_is_refused(wire: bytes | dict[str, object], problem: str) -> None:
    raw = wire if isinstance(wire, bytes) else json.dumps(wire).encode()
    with pytest.raises(InvalidManifest, match=problem):
        parse_manifest(raw)


def test_a_stub_without_weights_is_refused() -> None:
    stub = parse_manifest(json.dumps({**GOOD, "layers": []}).encode())
    with pytest.raises(InvalidManifest, match=r"chat: .*nothing can be loaded"):
        require_model(stub, "chat")


def test_shared_blobs_count_once() -> None:
    manifest = parse_manifest(json.dumps({**GOOD, "layers": [BLOB, BLOB]}).encode())
    assert manifest.size == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("chat", "registry.ollama.ai/library/chat/latest"),
        ("chat:8b", "registry.ollama.ai/library/chat/8b"),
        ("team/chat", "registry.ollama.ai/team/chat/latest"),
        ("hf.co/Org/Model:Q4", "hf.co/Org/Model/Q4"),
    ],
)
def test_a_served_name_has_the_path_that_ollama_reads(tmp_path: Path, name: str, path: str) -> None:
    manifests = ManifestDirectory(tmp_path)
    digest = manifests.write(name, b"{}")
    assert (tmp_path / path).read_bytes() == b"{}"
    assert digest == digest_of(b"{}")


def test_no_name_leads_out_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelfile, match="served name"):
        ManifestDirectory(tmp_path).manifest_path("../../etc")


def test_an_unchanged_manifest_is_not_written_again(tmp_path: Path) -> None:
    manifests = ManifestDirectory(tmp_path)
    manifests.write("chat", b"{}")
    before = manifests.manifest_path("chat").stat()
    manifests.write("chat", b"{}")
    assert manifests.manifest_path("chat").stat().st_ino == before.st_ino
    manifests.write("chat", b"{ }")
    assert manifests.manifest_path("chat").read_bytes() == b"{ }"


def test_names_that_are_not_kept_go_with_their_empty_directories(tmp_path: Path) -> None:
    manifests = ManifestDirectory(tmp_path / "manifests")
    for name in ("chat:8b", "chat:70b", "hf.co/a/b"):
        manifests.write(name, b"{}")
    manifests.keep_only(frozenset({"chat:8b"}))
    assert list(manifests.paths()) == [manifests.manifest_path("chat:8b")]
    assert not (tmp_path / "manifests" / "hf.co").exists()
    manifests.keep_only(frozenset())
    assert list((tmp_path / "manifests").iterdir()) == []
