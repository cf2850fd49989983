"""The models that a server knows: given by name, or read from a store directory on every request as Ollama does."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_ENCODERS: Final = frozenset({"bert", "nomic-bert"})
_DEFAULT: Final = ("registry.ollama.ai", "library", "latest")


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A model as the API shows it."""

    name: str
    """With its tag: ``chat:latest``."""
    digest: str
    """64 hex digits, of the manifest."""
    weights: str
    """Digest of the weights: models that share it share a runner."""
    size: int
    """Bytes of config and layers."""
    modified: datetime
    family: str = "llama"
    parameter_size: str = "199K"
    file_type: str = "F32"
    template: str = "{{ .Prompt }}"
    context_length: int | None = None
    """``num_ctx`` among its parameters."""

    @property
    def embeds(self) -> bool:
        return self.family in _ENCODERS

    @property
    def capabilities(self) -> list[str]:
        return ["embedding"] if self.embeds else ["completion"]

    def details(self) -> dict[str, Any]:
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": self.parameter_size,
            "quantization_level": self.file_type,
        }


class Library:
    """Models by name."""

    def __init__(self, names: Iterable[str] = (), *, store: Path | None = None) -> None:
        """``names`` are made up; a name that holds ``embed`` is an embedding model. ``store`` is read on each call."""
        self._given = [made_up(name) for name in names]
        self._store = store

    def all(self) -> list[FakeModel]:
        """Youngest first."""
        found = [*self._given, *(read_store(self._store) if self._store else ())]
        return sorted(found, key=lambda model: model.modified, reverse=True)

    def find(self, name: str) -> FakeModel | None:
        """By name, with or without the parts that have defaults."""
        wanted = short_name(name).casefold()
        return next((model for model in self.all() if model.name.casefold() == wanted), None)


def made_up(name: str) -> FakeModel:
    """A model that nothing stands behind."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    family = "bert" if "embed" in name else "llama"
    return FakeModel(short_name(name), digest, f"sha256:{digest}", 806_133, datetime.now(UTC), family)


def short_name(name: str) -> str:
    """Without default host and namespace, with the tag."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, _DEFAULT[2]
    for default in (f"{_DEFAULT[0]}/", f"{_DEFAULT[1]}/"):
        head = head.removeprefix(default)
    return f"{head}:{tag}"


def read_store(models: Path) -> Iterator[FakeModel]:
    """The models of an ``OLLAMA_MODELS`` directory; manifests that cannot be read are passed over."""
    root = models / "manifests"
    for path in root.glob("*/*/*/*"):
        try:
            yield _read(models, path, name="{}/{}/{}:{}".format(*path.relative_to(root).parts))
        except (OSError, ValueError, KeyError, StopIteration):
            continue


def _read(models: Path, path: Path, *, name: str) -> FakeModel:
    content = path.read_bytes()
    manifest = json.loads(content)
    layers = {layer["mediaType"].rpartition(".")[2]: layer for layer in manifest["layers"]}
    config = json.loads(_blob(models, manifest["config"]))
    parameters = json.loads(_blob(models, layers["params"])) if "params" in layers else {}
    return FakeModel(
        name=short_name(name),
        digest=hashlib.sha256(content).hexdigest(),
        weights=layers["model"]["digest"],
        size=sum(entry["size"] for entry in (manifest["config"], *manifest["layers"])),
        modified=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        family=config["model_family"],
        parameter_size=config["model_type"],
        file_type=config["file_type"],
        template=_blob(models, layers["template"]).decode() if "template" in layers else "{{ .Prompt }}",
        context_length=parameters.get("num_ctx"),
    )


def _blob(models: Path, descriptor: dict[str, Any]) -> bytes:
    digest: str = descriptor["digest"]
    return (models / "blobs" / digest.replace(":", "-")).read_bytes()
