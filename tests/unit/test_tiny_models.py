"""The tiny models: the same bytes every time, and images whose digests add up."""

import json
from pathlib import Path

import gguf
import pytest

from testbed.fakes.ollama.library import Library
from testbed.models import CATALOG, ensure, push


@pytest.mark.parametrize("name", CATALOG)
def test_a_model_is_the_same_bytes_every_time(name: str, tmp_path: Path) -> None:
    CATALOG[name].write(tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == ensure(name).read_bytes()


@pytest.mark.parametrize("name", CATALOG)
def test_keys_of_the_tokenizer_come_last(name: str) -> None:
    """Ollama's list of models reads no further, and takes an encoder for a decoder if its pooling comes later."""
    keys = [key for key in gguf.GGUFReader(ensure(name)).fields if not key.startswith("GGUF.")]
    tokenizer = [key.startswith("tokenizer.") for key in keys]
    assert tokenizer == sorted(tokenizer)
    assert any(tokenizer)


def test_models_differ_as_the_tests_need_them() -> None:
    assert ensure("chat-large").stat().st_size > 10 * ensure("chat").stat().st_size
    assert {model.family for model in CATALOG.values()} == {"llama", "qwen2", "bert"}


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (199_104, "199K"), (2_000_000, "2M"), (3_061_440, "3.06M"), (8_030_261_248, "8.0B")],
)
def test_counts_are_written_as_ollama_writes_them(count: int, text: str) -> None:
    assert push.human_number(count) == text


def test_an_image_holds_what_its_manifest_names(tmp_path: Path) -> None:
    made = push.image("chat", parameters={"num_ctx": 512}, system="Be brief.")
    manifest = json.loads(made.manifest)
    for entry in [manifest["config"], *manifest["layers"]]:
        content = made.blobs[entry["digest"]]
        assert (push.digest_of(content), len(content)) == (entry["digest"], entry["size"])
    config = json.loads(made.blobs[manifest["config"]["digest"]])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert push.into_store(made, tmp_path, "brief", tag="v1") == made.digest
    (model,) = Library(store=tmp_path).all()
    assert (model.name, f"sha256:{model.digest}", model.context_length) == ("brief:v1", made.digest, 512)
