"""The models by name, and the cache of their files."""

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Final

from testbed.models import gguf_files, vocabulary
from testbed.models.gguf_files import Shape
from testbed.paths import CACHE

TEMPLATE: Final = "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}assistant: "
"""The template layer. Servers below 0.30 read no other template."""


@dataclass(frozen=True, slots=True)
class TinyModel:
    """A model of the catalog, without its file."""

    name: str
    family: str
    """``general.architecture``."""
    template: str | None
    """None of an embedding model."""
    write: Callable[[Path], None]


CATALOG: Final[Mapping[str, TinyModel]] = MappingProxyType(
    {
        model.name: model
        for model in (
            TinyModel(
                "chat",
                "llama",
                TEMPLATE,
                lambda path: gguf_files.write_llama(path, Shape(layers=4, width=64), name="chat"),
            ),
            TinyModel(
                "chat-large",
                "llama",
                TEMPLATE,
                lambda path: gguf_files.write_llama(path, Shape(layers=8, width=192), name="chat-large"),
            ),
            TinyModel(
                "qwen",
                "qwen2",
                TEMPLATE,
                lambda path: gguf_files.write_qwen2(path, Shape(layers=4, width=64, heads_kv=2), name="qwen"),
            ),
            TinyModel(
                "embed",
                "bert",
                None,
                lambda path: gguf_files.write_bert(path, Shape(layers=2, width=64), name="embed"),
            ),
        )
    }
)


def ensure(name: str) -> Path:
    """The GGUF file of a model of the catalog, made if it is not in the cache."""
    path = CACHE / "models" / f"{name}-{_key()}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            partial = Path(scratch) / "model.gguf"
            CATALOG[name].write(partial)
            partial.replace(path)
    return path


def _key() -> str:
    """Of the code that decides the content."""
    sources = (Path(str(module.__file__)).read_bytes() for module in (gguf_files, vocabulary))
    here = Path(__file__).read_bytes()
    content = b"\0".join([*sources, here, version("gguf").encode(), version("numpy").encode()])
    return hashlib.sha256(content).hexdigest()[:12]
