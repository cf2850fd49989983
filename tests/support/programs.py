"""Programs in the place of others: each writes down how it was called, and does what a line of shell says."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Programs:
    """What a directory of PATH holds."""

    directory: Path

    def add(self, name: str, script: str = "") -> None:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.directory}/calls\n{script}\n')
        path.chmod(0o755)

    def calls(self, *words: str) -> list[str]:
        """The calls that begin with the words."""
        made = self.directory / "calls"
        lines = made.read_text().splitlines() if made.exists() else []
        return [line for line in lines if line.startswith(" ".join(words))]
