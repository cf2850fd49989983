"""What a recipe is, and the commands that recipes share."""

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from testbed.packages import need
from testbed.paths import ROOT

GO: Path = ROOT / "testbed" / "go"


class BuildFailed(Exception):
    """A recipe did not build; the log says why."""

    def __init__(self, name: str, log: Path) -> None:
        """``log`` is kept; its last lines are part of the message."""
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        super().__init__(f"{name} does not build; see {log}, which ends with:\n{tail}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to build one set of programs."""

    name: str
    """With its version: ``kubernetes-1.37``."""
    minutes: int
    """What to tell people before it starts, measured cold on two cores."""
    inputs: tuple[Path, ...]
    """Files whose content decides the result."""
    build: Callable[[Path, TextIO], None]
    """Fills the given directory; everything it says goes to the log."""


def run(
    command: Sequence[str | Path], *, log: TextIO, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a command with its output in the log. Raises CalledProcessError."""
    log.write(f"$ {' '.join(str(part) for part in command)}\n")
    log.flush()
    subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def go_build(
    module: str,
    package: str,
    output: Path,
    *,
    log: TextIO,
    ldflags: str = "",
    modfile: str | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Build one Go package of a pinned module below ``testbed/go``.

    Two compilers at a time: each may take a gigabyte. What only debuggers read is stripped, so it is not made: that is
    a sixth of the time.
    """
    chosen = [f"-modfile={modfile}"] if modfile else []
    flags = ["-trimpath", "-gcflags=all=-dwarf=false", "-ldflags", f"-s -w {ldflags}".strip()]
    run(
        ["go", "build", "-p", "2", *flags, *chosen, "-o", output, package],
        log=log,
        cwd=GO / module,
        env={"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly", **(env or {})},
    )


def need_packages(packages: Mapping[str, str | Path], *, log: TextIO) -> None:
    """Install the Debian packages whose program or file is missing. Raises NotInstalled."""
    log.write(f"needs {' '.join(packages)}\n")
    need(packages)
