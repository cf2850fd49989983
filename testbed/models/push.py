"""Models as Ollama stores them: into a store directory or into a registry, without ``ollama create``.

The config, the layers and the manifest have the bytes that Ollama's own ``create`` would write (server/create.go), so a
digest computed here is the digest that ``/api/tags`` and ``/api/ps`` report.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import gguf
import httpx

from testbed.models.catalog import CATALOG, TinyModel, ensure

MANIFEST_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE: Final = "application/vnd.docker.container.image.v1+json"
LAYER_PREFIX: Final = "application/vnd.ollama.image."
DEFAULT_HOST: Final = "registry.ollama.ai"

Parameters = Mapping[str, str | float | list[str]]


@dataclass(frozen=True, slots=True)
class Image:
    """A model as content: what a store or a registry keeps."""

    manifest: bytes
    blobs: Mapping[str, bytes]
    """Config and layers by ``sha256:HEX``."""
    weights: str
    """Digest of the GGUF layer."""

    @property
    def digest(self) -> str:
        """``sha256:HEX`` of the manifest; Ollama reports the 64 hex digits alone."""
        return digest_of(self.manifest)


def image(
    name: str, *, parameters: Parameters | None = None, system: str | None = None, template: str | None = None
) -> Image:
    """The image of a model of the catalog. ``template`` replaces the model's own."""
    model = CATALOG[name]
    weights = ensure(name).read_bytes()
    layers = [("model", weights)]
    text = template or model.template
    if text is not None:
        layers.append(("template", text.encode()))
    if system is not None:
        layers.append(("system", system.encode()))
    if parameters:
        layers.append(("params", _json(dict(parameters))))
    descriptors = [_descriptor(LAYER_PREFIX + kind, content) for kind, content in layers]
    config = _json(_config(model, [str(layer["digest"]) for layer in descriptors]))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, config),
        "layers": descriptors,
    }
    contents = [config, *(content for _, content in layers)]
    return Image(_json(manifest), {digest_of(content): content for content in contents}, digest_of(weights))


def into_store(
    made: Image, models: Path, name: str, *, host: str = DEFAULT_HOST, namespace: str = "library", tag: str = "latest"
) -> str:
    """Write an image into an ``OLLAMA_MODELS`` directory, the manifest last. Returns the manifest's digest."""
    blobs = models / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for digest, content in made.blobs.items():
        (blobs / digest.replace(":", "-")).write_bytes(content)
    manifest = models / "manifests" / host / namespace / name / tag
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_bytes(made.manifest)
    return made.digest


def into_registry(made: Image, registry: str, repository: str, *, tag: str = "latest") -> str:
    """Push an image to ``http://HOST:PORT``. Returns the manifest's digest.

    Raises httpx.HTTPStatusError if the registry refuses.
    """
    with httpx.Client(base_url=registry, timeout=60) as http:
        for digest, content in made.blobs.items():
            _push_blob(http, repository, digest=digest, content=content)
        path = f"/v2/{repository}/manifests/{tag}"
        http.put(path, content=made.manifest, headers={"Content-Type": MANIFEST_TYPE}).raise_for_status()
    return made.digest


def digest_of(content: bytes) -> str:
    """``sha256:HEX``."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _push_blob(http: httpx.Client, repository: str, *, digest: str, content: bytes) -> None:
    if http.head(f"/v2/{repository}/blobs/{digest}").status_code == httpx.codes.OK:
        return
    started = http.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
    location = urljoin(str(started.url), started.headers["Location"])
    joined = f"{location}{'&' if urlsplit(location).query else '?'}digest={digest}"
    http.put(joined, content=content, headers={"Content-Type": "application/octet-stream"}).raise_for_status()


def _config(model: TinyModel, digests: list[str]) -> dict[str, Any]:
    reader = gguf.GGUFReader(ensure(model.name))
    return {
        "model_format": "gguf",
        "model_family": model.family,
        "model_families": [model.family],
        "model_type": human_number(sum(int(tensor.n_elements) for tensor in reader.tensors)),
        "file_type": "F32",
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }


def human_number(count: int) -> str:
    """As Ollama prints parameter counts (format/format.go)."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count // unit}{letter}" if count % unit == 0 else f"{count / unit:.{digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def _descriptor(media_type: str, content: bytes) -> dict[str, str | int]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _json(value: Mapping[str, Any]) -> bytes:
    """As Go's encoder writes it: no spaces, a newline at the end."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def main() -> None:
    """``python -m testbed.models.push NAME (--registry URL --repository R | --store DIR)``."""
    parser = argparse.ArgumentParser(prog="python -m testbed.models.push", description="Push a tiny model.")
    parser.add_argument("name", choices=sorted(CATALOG))
    parser.add_argument("--tag", default="latest")
    parser.add_argument("--repository", help="in the registry; library/NAME if not given")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--registry", help="http://HOST:PORT")
    target.add_argument("--store", type=Path, help="an OLLAMA_MODELS directory")
    options = parser.parse_args()
    made = image(options.name)
    if options.store is not None:
        print(into_store(made, options.store, options.name, tag=options.tag))
    else:
        repository = options.repository or f"library/{options.name}"
        print(into_registry(made, options.registry, repository, tag=options.tag))


if __name__ == "__main__":
    main()
