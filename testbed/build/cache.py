"""The cache of built programs: a directory per recipe and content of its inputs, complete or absent."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from testbed.build.recipe import BuildFailed, Recipe
from testbed.build.recipes import RECIPES
from testbed.paths import CACHE
from testbed.say import say

_RECORD: Final = "built.json"


def prefix(name: str) -> Path:
    """Where a recipe's programs are or would be: a directory with ``bin/``."""
    recipe = RECIPES[name]
    return CACHE / "build" / f"{recipe.name}-{_key(recipe)}"


def ensure(name: str) -> Path:
    """The programs of a recipe, built if they are not there; returns a directory with ``bin/``.

    Raises BuildFailed, which names the log.
    """
    recipe, target = RECIPES[name], prefix(name)
    if target.is_dir():
        return target
    with _lock(target):
        if not target.is_dir():
            _build(recipe, target)
    return target


def seconds_to_build(name: str) -> float:
    """How long the cached programs of a recipe took to build."""
    seconds: float = json.loads((prefix(name) / _RECORD).read_text())["seconds"]
    return seconds


def _build(recipe: Recipe, target: Path) -> None:
    scratch = _beside(target, ".partial")
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "bin").mkdir(parents=True)
    log = _beside(target, ".log")
    say(f"  building {recipe.name} (about {recipe.minutes} min on two cores; log: {log})")
    started = time.monotonic()
    with log.open("w") as output:
        try:
            recipe.build(scratch, output)
        except (subprocess.CalledProcessError, OSError) as error:
            # Of a program that is not installed the log says nothing else.
            output.write(f"{error}\n")
            output.flush()
            raise BuildFailed(recipe.name, log) from error
    seconds = round(time.monotonic() - started, 1)
    (scratch / _RECORD).write_text(json.dumps({"recipe": recipe.name, "seconds": seconds}) + "\n")
    scratch.rename(target)
    say(f"  building {recipe.name}: {seconds} s")


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _key(recipe: Recipe) -> str:
    digest = hashlib.sha256(recipe.name.encode())
    for path in sorted(recipe.inputs):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Two runs that need the same program build it once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target, ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
