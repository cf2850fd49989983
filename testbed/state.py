"""State directories: one per test bed, each claimed by the run that uses it, and their removal."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Final

from testbed import mounts, nodes
from testbed.nodes.node import nodes_state
from testbed.paths import STATE
from testbed.processes import Process, Processes, this_process

_OWNER: Final = "owner.json"


def test_beds() -> list[Path]:
    """The directories of all test beds, running or left behind."""
    return sorted(path for path in STATE.glob("*") if path.is_dir())


def processes(state: Path) -> list[Processes]:
    """The records of a test bed: of the control plane with what stands beside it, and of its nodes."""
    return [Processes(state), Processes(nodes_state(state))]


def remove(state: Path) -> None:
    """Stop everything of a test bed, running or crashed, and delete its directory. May be repeated."""
    nodes.down(state)
    for records in processes(state):
        records.stop_all(grace=1)
    mounts.remove_tree(state)


@contextmanager
def claimed(purpose: str) -> Iterator[Path]:
    """A directory of this run's own, removed with everything in it at the end.

    What an earlier run for the same purpose left because it was killed is removed first; what a run beside this one
    uses stays, and so does what nobody claimed.
    """
    for owner in STATE.glob(f"{purpose}-*/{_OWNER}"):
        if not _in_use(owner):
            remove(owner.parent)
    STATE.mkdir(parents=True, exist_ok=True)
    # Under its name only with its owner in it: a run that starts now would take it for left behind.
    nameless = Path(tempfile.mkdtemp(dir=STATE, prefix="."))
    (nameless / _OWNER).write_text(json.dumps(asdict(this_process())))
    state = nameless.rename(STATE / f"{purpose}-{nameless.name[1:]}")
    try:
        yield state
    finally:
        remove(state)


def _in_use(owner: Path) -> bool:
    try:
        return Process(**json.loads(owner.read_text())).alive
    except (FileNotFoundError, ValueError):
        return False
