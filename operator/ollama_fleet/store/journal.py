"""What is already in a partial file, kept across kills.

The journal is written after the data it speaks of is synced, so it never claims bytes that a power cut took. It is
bound to the partial file's inode: a journal that outlived its file says nothing about the next one.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ollama_fleet.store.files import write_atomically

_MIB: Final = 1024 * 1024
_PARTS: Final = 64
_PART_MIN: Final = 8 * _MIB
_PART_MAX: Final = 64 * _MIB
_LIMIT: Final = 64 * _MIB
"""Bytes of a journal; beyond it is not ours."""


def part_bytes(size: int) -> int:
    """Bytes of one part: about 64 parts, each between 8 and 64 MiB."""
    return min(max(-(-size // _PARTS), _PART_MIN), _PART_MAX)


@dataclass(slots=True)
class Parts:
    """The parts of one blob and how many bytes of each, from its start on, are in the partial file."""

    size: int
    part: int
    """Bytes of every part but the last."""
    done: list[int]

    @classmethod
    def fresh(cls, size: int) -> Self:
        """Nothing is there."""
        part = part_bytes(size)
        return cls(size, part, [0] * -(-size // part))

    def range(self, index: int) -> tuple[int, int]:
        """First byte and end (exclusive) of a part."""
        return index * self.part, min((index + 1) * self.part, self.size)

    def missing(self, index: int) -> tuple[int, int]:
        """The range of a part that is not there yet; empty when it is complete."""
        start, end = self.range(index)
        return start + self.done[index], end

    def incomplete(self) -> list[int]:
        """Parts that miss bytes, in order."""
        return [index for index in range(len(self.done)) if self.missing(index)[0] < self.missing(index)[1]]

    @property
    def completed(self) -> int:
        """Bytes that are there."""
        return sum(self.done)

    def add(self, start: int, end: int) -> None:
        """Note bytes that follow directly on what their parts hold; they may reach over several parts."""
        for index in range(start // self.part, -(-end // self.part)):
            first, last = self.range(index)
            self.done[index] = max(self.done[index], min(end, last) - first)

    def frontier(self, index: int) -> tuple[int, int]:
        """Walk on from part ``index``: the first part that misses bytes, and the offset before which nothing does."""
        while index < len(self.done) and self.missing(index)[0] == self.range(index)[1]:
            index += 1
        return index, self.missing(index)[0] if index < len(self.done) else self.size


def save(path: Path, parts: Parts, *, inode: int) -> None:
    """Write the journal durably. The caller has synced the data."""
    wire = {"version": 1, "inode": inode, "size": parts.size, "part": parts.part, "done": parts.done}
    write_atomically(path, json.dumps(wire, separators=(",", ":")).encode())


def load(path: Path, *, size: int, inode: int) -> Parts | None:
    """The journal of this very partial file; None when there is none, or it is of another file or damaged."""
    try:
        if path.stat().st_size > _LIMIT:
            return None
        wire = json.loads(path.read_bytes())
        if (wire["version"], wire["inode"], wire["size"]) != (1, inode, size):
            return None
        parts = Parts(size, wire["part"], wire["done"])
        return parts if _consistent(parts) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _consistent(parts: Parts) -> bool:
    fits = isinstance(parts.part, int) and parts.part > 0 and len(parts.done) == -(-parts.size // parts.part)
    return fits and all(
        isinstance(done, int) and 0 <= done <= parts.range(index)[1] - parts.range(index)[0]
        for index, done in enumerate(parts.done)
    )
