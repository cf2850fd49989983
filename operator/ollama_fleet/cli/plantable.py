"""A plan as text of 80 columns."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from ollama_fleet.planning.footprints import Options, Shapes, estimate_of, footprint
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.packing import load_order
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.remedies import amount
from ollama_fleet.planning.scheduler import ServerShape, seat
from ollama_fleet.sizing.estimate import GIB, Estimate

_WIDTH = 80
_BAR = 40
_COLUMNS = "{:<23} {:>8} {:>8} {:>8} {:>8} {:>8}  {}"


@dataclass(frozen=True, slots=True)
class Sized:
    """What the table shows besides the plan."""

    inventory: Inventory
    server: ServerShape
    options: Options
    shapes: Shapes
    sources: dict[str, str]


def render(name: str, plan: Plan, sized: Sized, *, colour: bool) -> Iterator[str]:
    """The lines of one OllamaDeployment."""
    mark = _paint("✓", 32, colour=colour) if not plan.problems and not plan.left_out else _paint("✗", 31, colour=colour)
    yield f"{mark} {name}  Ollama {plan.version}  {sized.inventory.gpus} GPU per server, {sized.inventory.source}"
    for group in plan.groups:
        yield ""
        yield f"group {group.name}: {group.replicas} server(s), {group.config.num_parallel} slots per model"
        yield _COLUMNS.format("  MODEL", "WEIGHTS", "KV", "COMPUTE", "TOTAL", "RESERVE", "CONFIDENCE")
        yield from (_row(group, model.name, sized) for model in group.config.models)
        yield from _bars(group, sized, colour=colour)
    for problem in (*plan.problems, *plan.left_out):
        yield ""
        yield from textwrap.wrap(f"{problem.reason}: {problem.message}", _WIDTH)
    if plan.groups:
        yield ""
        yield "environment of group " + plan.groups[0].name
        for setting in plan.groups[0].environment:
            yield f"  {setting.name}={setting.value}"
            yield from textwrap.wrap(
                f"{setting.source}: {setting.reason}", _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
    noted = sorted({source for source in sized.sources.values() if source == "bundled catalogue"})
    if noted:
        listed = ", ".join(sorted(model for model, source in sized.sources.items() if source in noted))
        yield ""
        yield from textwrap.wrap(f"From the bundled catalogue, not from a file: {listed}", _WIDTH)


def estimates(group: Group, sized: Sized) -> dict[str, Estimate]:
    """By model, as the planner counted."""
    found = {}
    for model in group.config.models:
        if model.name in sized.shapes:
            options = sized.options
            found[model.name] = estimate_of(
                model, sized.shapes[model.name], options, parallel=max(1, group.config.num_parallel)
            )
    return found


def _row(group: Group, model: str, sized: Sized) -> str:
    guess = estimates(group, sized).get(model)
    if guess is None:
        return f"  {model:<22} not sized: its header is not known"
    kv = guess.part("kv") + guess.part("state")
    rest = guess.part("compute") + guess.part("projector")
    figures = [_short(value) for value in (guess.part("weights"), kv, rest, guess.total, guess.reserve)]
    return _COLUMNS.format(f"  {model[:21]}", *figures, guess.confidence)


def _bars(group: Group, sized: Sized, *, colour: bool) -> Iterator[str]:
    """What Pinned models take of each GPU when all of them are loaded."""
    wanted = [model.name for model in group.config.models if model.residency == "Pinned"]
    slots = max(1, group.config.num_parallel)
    found = [footprint(m, sized.shapes.get(m.name), sized.options, parallel=slots) for m in group.config.models]
    seating = seat(sized.server, load_order(one for one in found if one.name in wanted))
    for gpu, used in enumerate(seating.used):
        filled = min(_BAR, round(_BAR * used / sized.server.usable))
        bar = _paint("█" * filled, 36, colour=colour) + "░" * (_BAR - filled)
        free = max(0, sized.server.usable - used)
        yield f"  GPU {gpu} {bar} {amount(used)} used, {amount(free)} free"


def _short(count: int) -> str:
    return f"{count / GIB:.2f}Gi"


def _paint(text: str, code: int, *, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
