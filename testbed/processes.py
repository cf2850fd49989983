"""Programs of a test bed: started detached, recorded before they can be lost, and stopped only if they are ours.

A record holds the process id and its start time: an id that the kernel has given to another process since is never
signalled.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

_POLL_SECONDS: Final = 0.05
_MARK: Final = "OLLAMA_FLEET_TESTBED"
"""Environment variable of every program: its state directory and its name, which tell ours from others before the
record. What a program starts has it too."""

ENDS_WITH_US: Final = ("setpriv", "--pdeathsig=TERM", "--")
"""What to start a program with that is no test bed's: it gets SIGTERM when the thread that started it is gone."""


@dataclass(frozen=True, slots=True)
class Process:
    """A recorded process."""

    name: str
    pid: int
    started: int
    """Clock ticks after boot, from ``/proc/PID/stat``."""
    endpoint: str = ""
    """Where it answers, for people."""

    @property
    def alive(self) -> bool:
        """Whether this very process still runs."""
        return _start_time(self.pid) == self.started

    @property
    def since(self) -> datetime:
        """When it was started, in local time."""
        lines = Path("/proc/stat").read_text().splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        return datetime.fromtimestamp(boot + self.started / os.sysconf("SC_CLK_TCK")).astimezone()


class Processes:
    """The processes of one state directory."""

    def __init__(self, state: Path) -> None:
        """Records stand in ``state/processes``, output in ``state/logs``."""
        self._state = state
        self._records = state / "processes"
        self._logs = state / "logs"

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        endpoint: str = "",
    ) -> Process:
        """Start a program in a session of its own; it survives this process. Replaces a record of a dead one."""
        known = self.get(name)
        if known is not None and known.alive:
            known = replace(known, endpoint=endpoint)
            self._record(known)
            return known
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log(name).open("ab") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {}), _MARK: f"{self._state}:{name}"},
                cwd=cwd,
                start_new_session=True,
            )
        process = Process(name, child.pid, _start_time(child.pid) or 0, endpoint)
        self._record(process)
        _children[child.pid] = child
        return process

    def get(self, name: str) -> Process | None:
        """The program of a name, dead if its record stands and nothing of that name runs."""
        recorded = self._recorded(name)
        if recorded is not None and recorded.alive:
            return recorded
        return next((one for one in self._marked() if one.name == name and _leads(one)), recorded)

    def all(self) -> Iterator[Process]:
        """All records, oldest first."""
        found = (self.get(path.stem) for path in self._records.glob("*.json"))
        yield from sorted((process for process in found if process), key=lambda process: process.started)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone: for tests of crashes. The record stays."""
        process = self.get(name)
        if process is not None:
            _end(process, signal.SIGKILL, grace=5)

    def stop(self, name: str, *, grace: float = 10) -> None:
        """SIGTERM, after ``grace`` seconds SIGKILL; then forget it."""
        process = self.get(name)
        if process is not None:
            _end(process, signal.SIGTERM, grace=grace)
            self._path(name).unlink(missing_ok=True)

    def stop_all(self, *, grace: float = 10) -> None:
        """Stop everything, the youngest first: what was started on top goes first."""
        for process in reversed(list(self.all())):
            self.stop(process.name, grace=grace)
        for process in list(self._marked()):
            _end(process, signal.SIGKILL, grace=grace)

    def log(self, name: str) -> Path:
        """Where a program's output goes."""
        return self._logs / f"{name}.log"

    def _path(self, name: str) -> Path:
        return self._records / f"{name}.json"

    def _record(self, process: Process) -> None:
        self._records.mkdir(parents=True, exist_ok=True)
        self._path(process.name).write_text(json.dumps(asdict(process)))

    def _recorded(self, name: str) -> Process | None:
        try:
            return Process(**json.loads(self._path(name).read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def _marked(self) -> Iterator[Process]:
        """What runs of this state directory, also what was started by one who was killed before the record stood."""
        mark = f"{_MARK}={self._state}:".encode()
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                environment = (directory / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            name = next((one.removeprefix(mark).decode() for one in environment if one.startswith(mark)), None)
            started = _start_time(int(directory.name)) if name else None
            if name and started is not None:
                yield Process(name, int(directory.name), started)


def this_process() -> Process:
    """The record of the Python process that asks."""
    started = _start_time(os.getpid())
    assert started is not None
    return Process("python", os.getpid(), started)


_children: dict[int, subprocess.Popen[bytes]] = {}
"""Programs that this Python process started: it has to reap them, or they would look alive as zombies."""


def _leads(process: Process) -> bool:
    """Whether it was started by us, and not by a program that we started."""
    try:
        return os.getsid(process.pid) == process.pid
    except ProcessLookupError:
        return False


def _end(process: Process, number: int, *, grace: float) -> None:
    for attempt, limit in ((number, grace), (signal.SIGKILL, 5.0)):
        if not process.alive:
            break
        with suppress(ProcessLookupError):
            os.kill(process.pid, attempt)
        deadline = time.monotonic() + limit
        while process.alive and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    child = _children.pop(process.pid, None)
    if child is not None:
        child.wait()


def _start_time(pid: int) -> int | None:
    """When a process was started, None if it is gone or only a zombie."""
    try:
        # The name in parentheses may hold anything, also spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
