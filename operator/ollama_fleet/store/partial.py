"""The file that a blob is downloaded into: one writer at a time, across processes.

The lock is a ``flock`` on the partial file itself. It goes with the process, however that ends, and there are no lock
files to clean up. A second puller that waits for it finds, once it has the lock, that the file was renamed (or removed)
under it and looks again.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ollama_fleet.store import journal
from ollama_fleet.store.errors import DiskFull
from ollama_fleet.store.files import FILE_MODE, write_all
from ollama_fleet.store.journal import Parts
from ollama_fleet.store.layout import BlobDirectory, free_bytes
from ollama_fleet.store.manifest import Descriptor

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class PartialFile:
    """A locked partial file and its journal. Methods block; callers use threads for the long ones."""

    def __init__(self, directory: BlobDirectory, blob: Descriptor, descriptor: int) -> None:
        self._directory = directory
        self._blob = blob
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino
        self._path, self._journal = paths(directory, blob.digest)

    def open_parts(self, *, promised: int = 0) -> Parts:
        """What is there already. Sets the file's size.

        Raises `DiskFull` when what is missing does not fit beside the ``promised`` bytes of other downloads.
        """
        parts = journal.load(self._journal, size=self._blob.size, inode=self._inode)
        if parts is None or os.fstat(self._descriptor).st_size != self._blob.size:
            parts = Parts.fresh(self._blob.size)
            os.ftruncate(self._descriptor, 0)
        needed, free = self._blob.size - parts.completed + promised, free_bytes(self._directory.path)
        if needed > free:
            raise DiskFull(needed, free)
        os.ftruncate(self._descriptor, self._blob.size)
        return parts

    def write(self, content: bytes | bytearray, offset: int) -> None:
        """Write at an offset. Raises `DiskFull`."""
        with self._room_for(len(content)):
            write_all(self._descriptor, content, offset)

    def checkpoint(self, parts: Parts) -> None:
        """Make the data durable, then say so. ``parts`` must not change meanwhile: pass a copy. Raises `DiskFull`."""
        with self._room_for(parts.size - parts.completed):
            os.fdatasync(self._descriptor)
            journal.save(self._journal, parts, inode=self._inode)

    def update(self, sha256: "hashlib._Hash", start: int, end: int) -> None:
        """Feed bytes of the file into a hash."""
        while start < end:
            content = os.pread(self._descriptor, min(end - start, 1024 * 1024), start)
            if not content:
                raise OSError(f"{self._path} is shorter than {end} bytes")
            sha256.update(content)
            start += len(content)

    def finish(self) -> None:
        """The content is verified: give it its name."""
        os.fsync(self._descriptor)
        self._directory.adopt(self._blob.digest, self._path)
        self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the file and its journal."""
        self._journal.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)

    @contextmanager
    def _room_for(self, needed: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise DiskFull(needed, free_bytes(self._directory.path)) from error
            raise


def paths(directory: BlobDirectory, digest: str) -> tuple[Path, Path]:
    """The partial file and its journal."""
    stem = digest.removeprefix("sha256:")
    return directory.incoming / f"{stem}.partial", directory.incoming / f"{stem}.journal"


@contextmanager
def try_lock(directory: BlobDirectory, blob: Descriptor) -> Iterator[PartialFile | None]:
    """The partial file, if no other puller holds it; else None."""
    path, _ = paths(directory, blob.digest)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        locked = _lock(descriptor, path)
        yield PartialFile(directory, blob, descriptor) if locked else None
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if os.fstat(descriptor).st_uid == os.geteuid():
        os.fchmod(descriptor, FILE_MODE)  # open's own mode is cut by the umask
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False
