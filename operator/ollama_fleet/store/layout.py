"""Ollama's store on disk.

::

    <models>/manifests/<host>/<namespace>/<model>/<tag>   the pod's own
    <models>/blobs/sha256-<hex>                           content-addressed, may be shared by pods
    <models>/blobs/.incoming/<hex>.{partial,journal}      downloads under way (see `ollama_fleet.store.download`)
    <models>/blobs/.verified/<hex>                        marks of verified blobs
    <models>/.verified/<hex>                              the pod's own marks, where blobs are read-only

Ollama trusts blobs that are there. We do not: a blob counts when its sha256 was computed by us, and the mark of that
holds only as long as the file's inode, size, mtime and ctime stay (no ordinary program can set ctime). Bytes that rot
under an unchanged inode are found by the node agent's scrub, not here.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ollama_fleet.api.references import InvalidReference, parse_reference
from ollama_fleet.store.errors import DigestMismatch, InvalidModelfile
from ollama_fleet.store.files import make_directory, sync_directory, write_atomically
from ollama_fleet.store.manifest import MANIFEST_LIMIT, Descriptor, digest_of

BLOB_MODE: Final = 0o444
_HASH_CHUNK: Final = 4 * 1024 * 1024
_MARK_LIMIT: Final = 256

Fingerprint = tuple[int, int, int, int]


class BlobDirectory:
    """``blobs/``: content-addressed files and what we know about them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.incoming = path / ".incoming"
        self._marks = (path / ".verified", path.parent / ".verified")
        # On a full disk no mark can be written; what this process has verified still counts.
        self._verified: dict[str, Fingerprint] = {}
        self._refused: dict[str, Fingerprint] = {}

    def prepare(self) -> None:
        """Create the directories."""
        for path in (self.path, self.incoming, self._marks[0]):
            make_directory(path)

    def blob_path(self, digest: str) -> Path:
        """Where Ollama looks for the blob."""
        return self.path / digest.replace(":", "-")

    def has(self, blob: Descriptor) -> bool:
        """Whether the blob is there, of the right size, and was verified as the file that it is now."""
        fingerprint = self._fingerprint(blob.digest)
        if fingerprint is None or fingerprint[0] != blob.size:
            return False
        if self._verified.get(blob.digest) == fingerprint:
            return True
        return any(_read_mark(marks / _hex(blob.digest)) == fingerprint for marks in self._marks)

    def verify(self, blob: Descriptor, *, stop: threading.Event) -> bool:
        """Hash the file and mark it. False when it is absent or not what its name says, or when stopped.

        Blocks for the whole file; one that was found wrong is not hashed again until it changes.
        """
        fingerprint = self._fingerprint(blob.digest)
        if fingerprint is None or fingerprint[0] != blob.size or self._refused.get(blob.digest) == fingerprint:
            return False
        if self._hash(blob.digest, stop) != blob.digest:
            if not stop.is_set():
                self._refused[blob.digest] = fingerprint
            return False
        self.mark(blob.digest, fingerprint)
        return True

    def mark(self, digest: str, fingerprint: Fingerprint | None = None) -> None:
        """Note that the file, as it is now (or was at the fingerprint), has the content its name says."""
        fingerprint = fingerprint or self._fingerprint(digest)
        if fingerprint is None:
            return
        self._verified[digest] = fingerprint
        for marks in self._marks:
            # A mark that cannot be written costs one more hashing, nothing else.
            with suppress(OSError):
                write_atomically(marks / _hex(digest), json.dumps(fingerprint).encode())
                return

    def remove(self, digest: str) -> None:
        """Remove a blob and its mark, if there."""
        self._verified.pop(digest, None)
        for path in (*(marks / _hex(digest) for marks in self._marks), self.blob_path(digest)):
            path.unlink(missing_ok=True)

    def put(self, content: bytes) -> str:
        """Store a small blob, unless it is there; returns its digest."""
        digest = digest_of(content)
        blob = Descriptor("", digest, len(content))
        if not self.has(blob) and not self.verify(blob, stop=threading.Event()):
            write_atomically(self.blob_path(digest), content, mode=BLOB_MODE)
            self.mark(digest)
        return digest

    def read(self, digest: str, *, limit: int = MANIFEST_LIMIT) -> bytes | None:
        """The content of a small blob, hashed on the way; None when absent. Raises `DigestMismatch`."""
        try:
            with self.blob_path(digest).open("rb") as file:
                content = file.read(limit + 1)
        except FileNotFoundError:
            return None
        if digest_of(content) != digest:
            raise DigestMismatch(f"{self.blob_path(digest)}: the content is not what the name says")
        return content

    def adopt(self, digest: str, partial: Path) -> None:
        """Give a downloaded, verified and synced file its name, durably, and mark it."""
        with suppress(PermissionError):  # begun by another user of the same group
            partial.chmod(BLOB_MODE)
        partial.replace(self.blob_path(digest))
        sync_directory(self.path)
        # The rename changes ctime: the mark comes after it.
        self.mark(digest)

    def _fingerprint(self, digest: str) -> Fingerprint | None:
        try:
            status = self.blob_path(digest).stat()
        except FileNotFoundError:
            return None
        return (status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)

    def _hash(self, digest: str, stop: threading.Event) -> str:
        sha256 = hashlib.sha256()
        with self.blob_path(digest).open("rb") as file:
            while not stop.is_set() and (chunk := file.read(_HASH_CHUNK)):
                sha256.update(chunk)
        return f"sha256:{sha256.hexdigest()}"


class ManifestDirectory:
    """``manifests/``: which served names exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def manifest_path(self, name: str) -> Path:
        """Where Ollama looks for a served name. Raises `InvalidModelfile`, so no name leads out of the directory."""
        try:
            reference = parse_reference(name)
        except InvalidReference as error:
            raise InvalidModelfile(f"served name: {error}") from error
        return self.path / reference.host / reference.namespace / reference.model / reference.tag

    def write(self, name: str, raw: bytes) -> str:
        """Write the manifest of a name unless it is there; returns the digest that Ollama reports for it."""
        path = self.manifest_path(name)
        if _content(path) != raw:
            write_atomically(path, raw, mode=0o644)
        return digest_of(raw)

    def paths(self) -> Iterator[Path]:
        """Every manifest."""
        return (path for path in self.path.glob("*/*/*/*") if path.is_file())

    def keep_only(self, names: frozenset[str]) -> None:
        """Remove the manifests of all other names, and directories that this empties (Ollama stumbles over them)."""
        kept = set()
        for name in names:
            with suppress(InvalidModelfile):  # has no manifest to keep
                kept.add(self.manifest_path(name))
        for path in [path for path in self.paths() if path not in kept]:
            path.unlink()
            for parent in list(path.parents)[:3]:
                try:
                    parent.rmdir()
                except OSError:
                    break  # not empty


def _read_mark(path: Path) -> Fingerprint | None:
    try:
        with path.open("rb") as file:
            size, inode, mtime, ctime = json.loads(file.read(_MARK_LIMIT))
    except (OSError, ValueError, TypeError):
        return None
    return (size, inode, mtime, ctime)


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        return None


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def free_bytes(path: Path) -> int:
    """Bytes that an ordinary user may still write to the file system of a path."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
