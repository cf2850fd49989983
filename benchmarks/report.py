"""What a benchmark says: figures by name, a table for people, and the machine it ran on."""

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ollama_fleet import __version__


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ours, the baseline, and how they relate."""

    what: str
    unit: str
    ours: float
    baseline: float | None = None


@dataclass(slots=True)
class Report:
    """The result of one benchmark."""

    title: str
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    """By the documented keys, for ``--json``."""

    def table(self) -> str:
        """For a terminal of 100 columns."""
        known = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        where = machine()
        lines = [
            "",
            self.title,
            f"{where['cores']} cores, {where['memory_gib']} GiB, {where['kernel']}; {known}",
            f"{'':<44} {'ours':>12} {'baseline':>12} {'ratio':>8}",
        ]
        return "\n".join([*lines, *(_line(row) for row in self.rows), ""])


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "ollama_fleet": __version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its reaped children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _line(row: Row) -> str:
    what = f"{row.what} [{row.unit}]"
    if row.baseline is None:
        return f"{what:<44} {row.ours:>12.3f}"
    ratio = row.ours / row.baseline if row.baseline else float("nan")
    return f"{what:<44} {row.ours:>12.3f} {row.baseline:>12.3f} {ratio:>8.2f}"
