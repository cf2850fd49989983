"""``python -m testbed``: build, start, look at and remove test beds."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from testbed import crds, nodes
from testbed.build import KUBERNETES, RECIPES, BuildFailed, ensure, seconds_to_build
from testbed.controlplane import ControlPlane, DifferentTestBed, NotReady
from testbed.fakes.gpus import NodeGpus, cards
from testbed.images import ImageFailed, ensure_base, ensure_ollama, ensure_ollama_on_gpus, ensure_pause, ensure_product
from testbed.kwok import SimulatedNodes
from testbed.ollama_process import ON_GPUS, VERSIONS
from testbed.packages import NotInstalled
from testbed.paths import STATE
from testbed.processes import Process
from testbed.registry import Registry
from testbed.say import say, step
from testbed.state import processes, remove, test_beds

_DEFAULT: Final = "default"
_LEVELS: Final = ("control-plane", "kwok", "nodes")
_TOOLS: Final = ("registry", "helm", "kwok", "kube-router", "fake-nvml")
_TESTS_NEED: Final = (f"kubernetes-{KUBERNETES}", *_TOOLS, *(f"ollama-{one}" for one in VERSIONS))


def main() -> int:
    """The exit code."""
    options = _parser().parse_args()
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (BuildFailed, ImageFailed, NotInstalled, NotReady, DifferentTestBed, nodes.NodesInUse) as error:
        say(f"error: {error}")
        return 1


def _build(options: argparse.Namespace) -> int:
    for name in options.names:
        print(ensure(name))
    return 0


def _prepare(_: argparse.Namespace) -> int:
    """All that the tests need; on a second run it only looks."""
    programs = [(*_prepared(name, partial(ensure, name)), f"{seconds_to_build(name):.0f}") for name in _TESTS_NEED]
    images = [
        _prepared("base image", ensure_base),
        _prepared("pause image", lambda: ensure_pause().archive),
        _prepared("product image", lambda: ensure_product().archive),
        *(_prepared(f"Ollama {version} image", partial(_ollama_image, version)) for version in VERSIONS),
        _prepared(f"Ollama {ON_GPUS} on GPUs image", lambda: ensure_ollama_on_gpus(ON_GPUS, _ollama(ON_GPUS)).archive),
    ]
    _table(("WHAT", "FROM", "SECONDS", "SECONDS TO COMPILE"), [*programs, *((*image, "") for image in images)])
    return 0


def _prepared(what: str, make: Callable[[], Path]) -> tuple[str, str, str]:
    begun, started = time.time(), time.monotonic()
    origin = "made now" if make().stat().st_mtime >= begun else "cache"
    return what, origin, f"{time.monotonic() - started:.1f}"


def _ollama_image(version: str) -> Path:
    return ensure_ollama(version, _ollama(version)).archive


def _ollama(version: str) -> Path:
    return ensure(f"ollama-{version}")


def _up(options: argparse.Namespace) -> int:
    state = STATE / options.id
    real = options.level == "nodes"
    with step("control plane"):
        address = nodes.address(state) if real else "127.0.0.1"
        plane = ControlPlane(state, address, minor=options.kubernetes)
        plane.up()
        crds.install(plane)
    if options.registry:
        with step("registry"):
            Registry(plane.processes, state, address=address).up()
    if real:
        with step(f"{options.nodes} real node(s)"):
            made = nodes.up(plane, count=options.nodes)
        if options.gpus:
            with step(f"{options.gpus} fake GPU(s) on each"):
                for node in made:
                    NodeGpus(plane, node).up(cards(node.name, options.gpus))
    if options.level == "kwok":
        with step(f"{options.nodes} simulated node(s)"):
            _simulate(plane, options.nodes)
    print(f"export KUBECONFIG={plane.kubeconfig}")
    return 0


def _simulate(plane: ControlPlane, count: int) -> None:
    simulated = SimulatedNodes(plane)
    simulated.up()
    for number in range(count):
        simulated.add(f"simulated-{number}", number=number)


def _down(options: argparse.Namespace) -> int:
    for state in test_beds() if options.all else [STATE / options.id]:
        if state.is_dir():
            with step(f"removing {state.name}"):
                remove(state)
    return 0


def _status(_: argparse.Namespace) -> int:
    rows = [_row(state.name, process) for state in test_beds() for one in processes(state) for process in one.all()]
    _table(("TEST BED", "COMPONENT", "PID", "STATE", "SINCE", "ENDPOINT"), rows)
    return 0


def _row(test_bed: str, process: Process) -> tuple[str, ...]:
    state, since = ("running", f"{process.since:%F %T}") if process.alive else ("dead", "-")
    return test_bed, process.name, str(process.pid), state, since, process.endpoint


def _logs(options: argparse.Namespace) -> int:
    records = processes(STATE / options.id)
    for path in (one.log(options.name) for one in records):
        if path.exists():
            # From the first line on; following, until the reader has enough.
            os.execvp("tail", ["tail", "--lines=+1", *(["--follow=name"] if options.follow else []), str(path)])
    known = ", ".join(process.name for one in records for process in one.all())
    say(f"no log of {options.name} in {options.id}: {f'it has {known}' if known else 'no such test bed is up'}")
    return 1


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m testbed", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="compile programs that are not cached; prints their directories")
    build.add_argument("names", nargs="+", choices=sorted(RECIPES), metavar="NAME", help=", ".join(sorted(RECIPES)))
    build.set_defaults(run=_build)

    prepare = commands.add_parser("prepare", help="compile and make everything that the tests need")
    prepare.set_defaults(run=_prepare)

    up = _with_id(commands.add_parser("up", help="start a test bed, or what does not run of it"))
    up.add_argument("--level", choices=_LEVELS, default=_LEVELS[0], help="how much of it (default: %(default)s)")
    up.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes of the levels kwok and nodes (default: 1)")
    up.add_argument("--gpus", type=int, default=0, metavar="N", help="fake GPUs on each node of level nodes")
    up.add_argument("--kubernetes", choices=_minors(), default=KUBERNETES, help="minor (default: %(default)s)")
    up.add_argument("--registry", action="store_true", help="also a registry")
    up.set_defaults(run=_up)

    down = _with_id(commands.add_parser("down", help="stop and delete a test bed, running or crashed"))
    down.add_argument("--all", action="store_true", help="every test bed of this machine")
    down.set_defaults(run=_down)

    status = commands.add_parser("status", help="list the processes of all test beds")
    status.set_defaults(run=_status)

    logs = _with_id(commands.add_parser("logs", help="print what a component wrote"))
    logs.add_argument("name", help="as in the status")
    logs.add_argument("--follow", action="store_true", help="go on with what it writes from now on")
    logs.set_defaults(run=_logs)
    return parser


def _with_id(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--id", type=_id, default=_DEFAULT, metavar="NAME", help="which test bed (default: %(default)s)"
    )
    return parser


def _id(text: str) -> str:
    """Of one directory below the others': what is removed is never elsewhere, or all of them."""
    if not re.fullmatch("[a-z0-9][a-z0-9_-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of a-z, 0-9, - and _")
    return text


def _minors() -> list[str]:
    return [name.removeprefix("kubernetes-") for name in sorted(RECIPES) if name.startswith("kubernetes-")]


if __name__ == "__main__":
    sys.exit(main())
