"""A plan as plain text of 80 columns."""

import textwrap
from collections.abc import Iterator
from typing import Final

from ollama_fleet.cli.planview import GroupView, ModelRow, PlanView
from ollama_fleet.planning.remedies import amount
from ollama_fleet.sizing.estimate import GIB

_WIDTH: Final = 80
_BAR: Final = 36
_NAME: Final = 19
_COLUMNS: Final = "{:<22} {:>8} {:>8} {:>8} {:>8} {:>8}  {}"


def render(view: PlanView) -> Iterator[str]:
    """The lines of one OllamaDeployment."""
    yield from _wrapped(f"{'✓' if view.fits else '✗'} {view.name}  Ollama {view.plan.version}  {view.where}", hang=2)
    for group in view.groups:
        yield ""
        yield from _group(group)
    for problem in (*view.plan.problems, *view.plan.left_out):
        yield ""
        yield from _wrapped(f"{problem.reason}: {problem.message}", hang=2)
    if view.settings:
        yield ""
        yield "SETTINGS"
    for value in view.settings:
        groups = f" ({', '.join(value.groups)})" if value.groups else ""
        yield f"  {value.name}={value.value}{groups}"
        yield from _wrapped(f"{value.source}: {value.reason}" if value.reason else value.source, indent=6)
    for note in view.notes:
        yield ""
        yield from _wrapped(note)


def heading(group: GroupView) -> str:
    """What the servers of a group are."""
    servers = "1 server" if group.replicas == 1 else f"{group.replicas} servers"
    slots = "1 slot" if group.parallel == 1 else f"{group.parallel} slots"
    return f"group {group.name}: {servers}, {slots} per model, cache {group.kv_type}"


def _group(group: GroupView) -> Iterator[str]:
    yield heading(group)
    yield _COLUMNS.format("  MODEL", "WEIGHTS", "KV", "COMPUTE", "TOTAL", "RESERVE", "CONFIDENCE")
    for row in group.rows:
        yield _row(row)
    for number, bar in enumerate(group.bars):
        filled = min(_BAR, round(_BAR * bar.used / bar.usable))
        free = max(0, bar.usable - bar.used)
        drawn = "█" * filled + "░" * (_BAR - filled)
        yield f"  GPU {number} {drawn} {amount(bar.used)} used, {amount(free)} free"
    if group.sharing:
        yield f"  OnDemand models share what is free, one at a time: {group.sharing}"


def _row(row: ModelRow) -> str:
    name = row.name if len(row.name) <= _NAME else f"{row.name[: _NAME - 1]}…"
    name = f"  {name}{'*' if row.residency != 'Pinned' else ''}"
    if row.estimate is None:
        return f"{name:<22} not sized: its header is not known"
    reserve = gibibytes(row.estimate.reserve) if row.on_gpu else "-"
    figures = (gibibytes(size) for size in (row.weights, row.kv, row.compute, row.total))
    return _COLUMNS.format(name, *figures, reserve, row.estimate.confidence)


def gibibytes(count: int) -> str:
    """Two digits: enough to compare models, and no more than estimates are good for."""
    return f"{count / GIB:.2f}Gi"


def _wrapped(text: str, *, indent: int = 0, hang: int = 0) -> Iterator[str]:
    # Names of models and fields are not broken.
    yield from textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hang),
        break_on_hyphens=False,
        break_long_words=False,
    )
