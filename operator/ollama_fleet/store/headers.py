"""Headers of models, read from where the models are: some megabytes of a file or a registry's blob, never all of it."""

from pathlib import Path
from typing import Final

from ollama_fleet.api.references import ModelReference
from ollama_fleet.sizing.gguf import InvalidHeader, NeedMore, read_header
from ollama_fleet.sizing.shape import ModelShape, shape_of
from ollama_fleet.store.errors import Unreachable
from ollama_fleet.store.manifest import LAYER_MODEL, LAYER_PROJECTOR, Descriptor, Manifest
from ollama_fleet.store.registry import RegistryClient

_FIRST: Final = 256 * 1024
"""Bytes that hold the header of a small model; the first try."""
_GROWTH: Final = 2


class _Buffer:
    """Takes bytes in and tries to read a header whenever there may be enough."""

    def __init__(self, file_bytes: int) -> None:
        self._bytes = bytearray()
        self._wanted = _FIRST
        self._file_bytes = file_bytes

    def __len__(self) -> int:
        return len(self._bytes)

    def take(self, chunk: bytes) -> ModelShape | None:
        """The shape, once its header is whole. Raises InvalidHeader."""
        self._bytes += chunk
        if len(self._bytes) < min(self._wanted, self._file_bytes):
            return None
        try:
            header = read_header(bytes(self._bytes))
        except NeedMore as more:
            if more.at_least > self._file_bytes:
                raise InvalidHeader(f"the header ends behind the file of {self._file_bytes} bytes") from None
            # Not for every chunk anew: each try reads from the start.
            self._wanted = max(more.at_least, _GROWTH * len(self._bytes))
            return None
        return shape_of(header, file_bytes=self._file_bytes)


def file_shape(path: Path) -> ModelShape:
    """The shape of a model in a file. Raises OSError or InvalidHeader."""
    size = path.stat().st_size
    buffer = _Buffer(size)
    with path.open("rb") as handle:
        while chunk := handle.read(_FIRST):
            shape = buffer.take(chunk)
            if shape is not None:
                return shape
    raise InvalidHeader(f"{path}: the file ends inside the header")


async def remote_shape(registry: RegistryClient, reference: ModelReference, manifest: Manifest) -> ModelShape:
    """The shape of a registry's model, its projector counted in.

    One request whose answer is dropped when the header is whole. Raises StoreError or InvalidHeader.
    """
    (weights, *_) = manifest.of_type(LAYER_MODEL)
    shape = await _blob_shape(registry, reference, weights)
    return shape.with_projector(sum(layer.size for layer in manifest.of_type(LAYER_PROJECTOR)))


async def _blob_shape(registry: RegistryClient, reference: ModelReference, blob: Descriptor) -> ModelShape:
    buffer = _Buffer(blob.size)
    async with registry.open_blob(reference, blob, start=0, end=blob.size) as stream:
        async for chunk in stream.chunks:
            shape = buffer.take(chunk)
            if shape is not None:
                return shape
    raise Unreachable(
        f"blob {blob.digest} of {reference}: the answer ended after {len(buffer)} bytes, inside the header"
    )
