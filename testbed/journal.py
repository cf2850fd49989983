"""What a test bed made outside its directory, written down before it is made, undone in reverse.

A run that is killed leaves its journal; the next ``down`` or ``up`` reads it and removes exactly those things.
"""

import json
from collections.abc import Callable
from pathlib import Path

Undo = Callable[[str], None]
"""Undoes one kind of thing, named by its argument; must not fail when it is already gone."""


class Journal:
    """The journal of one state directory."""

    def __init__(self, state: Path, undo: dict[str, Undo]) -> None:
        """``undo`` knows every kind that is ever recorded."""
        self._path = state / "journal.jsonl"
        self._undo = undo

    def record(self, kind: str, name: str) -> None:
        """Write down that ``name`` is about to be made. Once is enough."""
        if kind not in self._undo:
            raise KeyError(f"nobody knows how to undo a {kind}")
        if (kind, name) in self.entries():
            return
        with self._path.open("a") as handle:
            handle.write(json.dumps([kind, name]) + "\n")

    def entries(self) -> list[tuple[str, str]]:
        """What was recorded, in order."""
        if not self._path.exists():
            return []
        return [(kind, name) for kind, name in map(json.loads, self._path.read_text().splitlines())]

    def undo_all(self) -> None:
        """Undo everything, the newest first, and forget it."""
        for kind, name in reversed(self.entries()):
            self._undo[kind](name)
        self._path.unlink(missing_ok=True)
