"""An image in the cache, and how content becomes a cache key."""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from testbed import packages
from testbed.paths import CACHE
from testbed.say import step

IMAGES: Final = CACHE / "images"

_BLOCK: Final = 1 << 20


class ImageFailed(Exception):
    """Something of an image cannot be made; the message says what and why."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image archive (OCI or Docker) and the name that pods use; import it with ``ctr images import``."""

    name: str
    """With its tag: ``localhost/ollama:0.24.0``."""
    archive: Path
    """Holds the image under ``name``."""
    aliases: tuple[str, ...] = ()
    """Further names that nodes give it."""


def key(paths: Iterable[Path], *, salt: str = "") -> str:
    """Twelve hex digits over the relative names and content of files and trees, byte code left out."""
    digest = hashlib.sha256(salt.encode())
    for root in paths:
        for path in _files(root):
            digest.update(f"\0{root.name}/{path.relative_to(root)}\0{path.stat().st_mode & 0o111}\0".encode())
            with path.open("rb") as handle:
                while block := handle.read(_BLOCK):
                    digest.update(block)
    return digest.hexdigest()[:12]


def cached(path: Path, text: str, make: Callable[[Path], None]) -> Path:
    """``path``, made by ``make`` (which is given a path beside it) when it is missing; two runs make it once.

    Raises ImageFailed, NotInstalled.
    """
    if path.exists():
        return path
    with locked(path):
        if not path.exists():
            partial = path.with_name(f"{path.name}.partial")
            _discard(partial)
            packages.need(packages.IMAGES)
            with step(text):
                _make(text, partial, make)
            partial.replace(path)
    return path


def _discard(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)


def _make(text: str, partial: Path, make: Callable[[Path], None]) -> None:
    try:
        make(partial)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise ImageFailed(f"{text}: {error}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``, which is a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(found)
