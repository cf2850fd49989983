"""A plan on a terminal: as wide as that is, and in colour. The only module that knows rich."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ollama_fleet.cli.plantable import gibibytes, heading
from ollama_fleet.cli.planview import GpuBar, GroupView, PlanView
from ollama_fleet.planning.remedies import amount

_BAR = 40
_CONFIDENCE = {"measured": "green", "exact": "green", "modelled": "cyan", "low": "yellow"}
_SOURCE = {"spec": "bold", "computed": "cyan", "default": "dim"}
_TIGHT = 0.9
"""Of a GPU: more than that is drawn as nearly full."""


def show(views: list[PlanView], console: Console | None = None) -> None:
    """Print them. ``NO_COLOR`` is honoured by the console."""
    console = console or Console(highlight=False)
    for view in views:
        console.print(Group(*_deployment(view)))


def _deployment(view: PlanView) -> Iterator[RenderableType]:
    mark = Text("✓ ", "bold green") if view.fits else Text("✗ ", "bold red")
    yield Text.assemble(mark, (view.name, "bold"), f"  Ollama {view.plan.version}  ", (view.where, "dim"))
    for group in view.groups:
        yield Text()
        yield from _group(group)
    for problem in (*view.plan.problems, *view.plan.left_out):
        yield Text()
        yield Text.assemble((f"{problem.reason}: ", "bold red"), problem.message)
    if view.settings:
        yield Text()
        yield _settings(view)
    for note in view.notes:
        yield Text(note, "dim")


def _group(group: GroupView) -> Iterator[RenderableType]:
    yield Text(heading(group), "bold")
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("MODEL", overflow="fold")
    for column in ("SLOTS", "WEIGHTS", "KV", "COMPUTE", "TOTAL", "RESERVE"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("CONFIDENCE", no_wrap=True)
    for row in group.rows:
        name = Text(row.name) if row.residency == "Pinned" else Text.assemble(row.name, (" OnDemand", "dim"))
        guess = row.estimate
        if guess is None:
            table.add_row(name, str(row.slots), *["-"] * 5, Text("not sized: its header is not known", "yellow"))
            continue
        reserve = gibibytes(guess.reserve) if row.on_gpu else "-"
        figures = [gibibytes(size) for size in (row.weights, row.kv, row.compute, row.total)]
        table.add_row(name, str(row.slots), *figures, reserve, Text(guess.confidence, _CONFIDENCE[guess.confidence]))
    yield table
    for number, bar in enumerate(group.bars):
        yield _bar(number, bar)
    if group.sharing:
        yield Text(f"OnDemand models share what is free, one at a time: {group.sharing}", "dim")


def _bar(number: int, bar: GpuBar) -> Text:
    share = bar.used / bar.usable
    filled = min(_BAR, round(_BAR * share))
    colour = "yellow" if share > _TIGHT else "cyan"
    words = f"  {amount(bar.used)} used, {amount(max(0, bar.usable - bar.used))} free"
    return Text.assemble(f"GPU {number} ", ("█" * filled, colour), ("░" * (_BAR - filled), "dim"), words)


def _settings(view: PlanView) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("SETTING", no_wrap=True)
    table.add_column("VALUE", no_wrap=True)
    table.add_column("WHY", overflow="fold")
    for value in view.settings:
        groups = f" ({', '.join(value.groups)})" if value.groups else ""
        why = Text.assemble((value.source, _SOURCE[value.source]), f": {value.reason}" if value.reason else "")
        table.add_row(value.name, Text(f"{value.value}{groups}"), why)
    return table
