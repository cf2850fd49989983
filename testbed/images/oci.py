"""Writing an OCI image archive with one uncompressed layer (OCI image layout 1.0)."""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any, Final

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_archive(layer: Path, archive: Path, *, name: str, config: dict[str, Any]) -> None:
    """Write ``archive`` with the tar file ``layer``; ``config`` is what runs (``Entrypoint``, ``User``, ...)."""
    with layer.open("rb") as handle:
        layer_digest = hashlib.file_digest(handle, "sha256").hexdigest()
    image = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        # buildah refuses to build on an image whose history does not list its layers.
        "history": [{"created_by": "ollama-fleet testbed"}],
    }
    image_blob = _encode(image)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("config.v1+json", hashlib.sha256(image_blob).hexdigest(), len(image_blob)),
        "layers": [_descriptor("layer.v1.tar", layer_digest, layer.stat().st_size)],
    }
    manifest_blob = _encode(manifest)
    entry = _descriptor("manifest.v1+json", hashlib.sha256(manifest_blob).hexdigest(), len(manifest_blob))
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    }
    with tarfile.open(archive, "w") as packed:
        _add(packed, "oci-layout", _encode({"imageLayoutVersion": "1.0.0"}))
        _add(packed, "index.json", _encode({"schemaVersion": 2, "manifests": [entry]}))
        for blob in (manifest_blob, image_blob):
            _add(packed, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        packed.add(layer, f"blobs/sha256/{layer_digest}")


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}


def _encode(document: object) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _add(packed: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    packed.addfile(member, io.BytesIO(content))
