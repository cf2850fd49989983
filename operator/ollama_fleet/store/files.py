"""Files that survive a kill or a power cut whole, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

DIRECTORY_MODE: Final = 0o2775
"""Shared caches: every puller of the group may write, and files inherit the directory's group."""
FILE_MODE: Final = 0o664


def make_directory(path: Path) -> None:
    """Create a directory (and its parents) that the group shares; existing ones keep their mode."""
    if path.is_dir():
        return
    make_directory(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
        path.chmod(DIRECTORY_MODE)  # mkdir's own mode is cut by the umask


def write_atomically(path: Path, content: bytes, *, mode: int = FILE_MODE) -> None:
    """Write so that readers, and we after a power cut, see the old content or the new, never a part."""
    make_directory(path.parent)
    with _temporary(path) as (descriptor, temporary):
        os.fchmod(descriptor, mode)
        write_all(descriptor, content, 0)
        os.fsync(descriptor)
        os.replace(temporary, path)  # noqa: PTH105 - the temporary name is a plain string
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes | bytearray | memoryview, offset: int) -> None:
    """Write at an offset, whole."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def sync_directory(path: Path) -> None:
    """Make renames and new names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[int, str]]:
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        yield descriptor, name
    except BaseException:
        os.unlink(name)  # noqa: PTH108 - see above
        raise
    finally:
        os.close(descriptor)
