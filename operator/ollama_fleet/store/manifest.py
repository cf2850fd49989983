"""Manifests: what a model is made of, as a registry serves it (Docker distribution schema 2 or OCI)."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.store.errors import InvalidManifest

MANIFEST_LIMIT: Final = 4 * 1024 * 1024
"""Bytes; the limit that registries themselves keep."""
LAYER_LIMIT: Final = 4096
SIZE_LIMIT: Final = 1 << 45
"""Bytes of all blobs; a larger figure is nonsense and would break sums: of free space, and of a ModelSet's status."""

MEDIA_TYPE_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT: Final = f"{MEDIA_TYPE_MANIFEST}, application/vnd.oci.image.manifest.v1+json"

LAYER_MODEL: Final = "application/vnd.ollama.image.model"
LAYER_PROJECTOR: Final = "application/vnd.ollama.image.projector"
LAYER_ADAPTER: Final = "application/vnd.ollama.image.adapter"
LAYER_TEMPLATE: Final = "application/vnd.ollama.image.template"
LAYER_SYSTEM: Final = "application/vnd.ollama.image.system"
LAYER_PARAMS: Final = "application/vnd.ollama.image.params"

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(content: bytes) -> str:
    """``sha256:`` and the hexadecimal digest of the content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One blob of a manifest."""

    media_type: str
    digest: str
    size: int
    name: str | None = None
    """Name of a tensor, in manifests of safetensors models."""

    def to_wire(self) -> dict[str, object]:
        """As Ollama writes it. The pusher's ``from`` (a path on its machine) is left out."""
        wire: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**wire, "name": self.name} if self.name else wire


@dataclass(frozen=True, slots=True)
class Manifest:
    """Config and layers of one model."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob once, the config first."""
        return tuple({blob.digest: blob for blob in (self.config, *self.layers)}.values())

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size for blob in self.blobs)

    def of_type(self, media_type: str) -> tuple[Descriptor, ...]:
        """The layers of one media type."""
        return tuple(layer for layer in self.layers if layer.media_type == media_type)

    def encode(self) -> bytes:
        """Deterministic JSON with the keys in Ollama's order.

        No newline at the end: Ollama hashes what its JSON decoder has read, which need not include one.
        """
        wire = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE_MANIFEST,
            "config": self.config.to_wire(),
            "layers": [layer.to_wire() for layer in self.layers],
        }
        return json.dumps(wire, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class ResolvedManifest:
    """A manifest whose bytes are those that the digest names."""

    digest: str
    raw: bytes
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        return self.manifest.size

    @classmethod
    def from_bytes(cls, raw: bytes) -> "ResolvedManifest":
        """Parse and hash. Raises `InvalidManifest`."""
        return cls(digest_of(raw), raw, parse_manifest(raw))


def parse_manifest(raw: bytes) -> Manifest:
    """Parse a manifest of a model or an adapter. Raises `InvalidManifest`, which says what is wrong."""
    try:
        wire = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidManifest("manifest is not JSON") from error
    if not isinstance(wire, dict):
        raise InvalidManifest("manifest is not a JSON object")
    if "manifests" in wire:
        raise InvalidManifest("manifest is an index of images, not a model")
    layers = wire.get("layers")
    if wire.get("schemaVersion") != 2 or not isinstance(layers, list) or len(layers) > LAYER_LIMIT:
        raise InvalidManifest(f"manifest is not of schema 2 with at most {LAYER_LIMIT} layers")
    manifest = Manifest(
        config=_descriptor(wire.get("config"), "config"),
        layers=tuple(_descriptor(layer, f"layer {number}") for number, layer in enumerate(layers)),
    )
    if manifest.size > SIZE_LIMIT:
        raise InvalidManifest("manifest: all layers have no usable size together")
    return manifest


def require_model(manifest: Manifest, name: str) -> None:
    """Refuse what Ollama could not load: stubs of cloud models and bare adapters have no weights."""
    if not manifest.of_type(LAYER_MODEL):
        raise InvalidManifest(f"{name}: manifest has no layer of type {LAYER_MODEL}; nothing can be loaded")


def _descriptor(wire: object, where: str) -> Descriptor:
    if not isinstance(wire, Mapping):
        raise InvalidManifest(f"manifest: {where} is not an object")
    media_type, digest, size, name = (wire.get(key) for key in ("mediaType", "digest", "size", "name"))
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidManifest(f"manifest: {where} has no sha256 digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_LIMIT:
        raise InvalidManifest(f"manifest: {where} has no usable size")
    if not isinstance(media_type, str) or not (name is None or isinstance(name, str)):
        raise InvalidManifest(f"manifest: {where} has no media type")
    return Descriptor(media_type, digest, size, name or None)
