"""What a process on a GPU is: whose, and which weights it serves.

The weights are known from ``/proc/PID/cmdline``: both generations of Ollama run a process per model and
give it the path of the blob (``--model .../blobs/sha256-...``).
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_fleet.agent.cgroup import container_of

_LIMIT_BYTES: Final = 64 * 1024
_BLOB: Final = re.compile(r"sha256-([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Runner:
    """A process on a GPU."""

    pod_uid: str
    """Empty outside of pods."""
    weights: str | None
    """Digest; None when it serves no model."""


def runner_of(pid: int, *, proc: Path = Path("/proc")) -> Runner:
    """A process of this PID namespace; one that is gone is nobody's."""
    container = container_of(pid, proc=proc)
    return Runner("", None) if container is None else Runner(container.pod_uid, weights_of(pid, proc=proc))


def parse_command(text: str) -> str | None:
    """Digest of the weights, None for another program. ``text`` has its arguments, each ended by a null."""
    arguments = text.split("\0")
    for flag, value in itertools.pairwise(arguments):
        blob = _BLOB.fullmatch(value.rpartition("/")[2])
        if flag == "--model" and blob:
            return f"sha256:{blob[1]}"
    return None


def weights_of(pid: int, *, proc: Path = Path("/proc")) -> str | None:
    """Of a process of this PID namespace, None when it serves none or is gone."""
    try:
        with (proc / str(pid) / "cmdline").open(errors="replace") as file:
            return parse_command(file.read(_LIMIT_BYTES))
    except OSError:
        return None
