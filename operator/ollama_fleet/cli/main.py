"""``kubectl ollama``: what people ask a fleet."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from ollama_fleet import __version__
from ollama_fleet.api import names
from ollama_fleet.cli import planargs
from ollama_fleet.cli.cluster import CannotRead, Cluster
from ollama_fleet.cli.tree import is_ready, render

_READY, _ERROR, _NOT_READY = 0, 1, 2
_DEPLOYMENTS: Final = f"ollamadeployments.{names.GROUP}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all asked for is Ready, 2 when something is not, 1 when it cannot be told."""
    options = _parser().parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except CannotRead as error:
        sys.stderr.write(f"kubectl-ollama: {error}\n")
        return _ERROR


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A wrong option is an error, and no answer to what was asked: 2 has another meaning here."""
        self.print_usage(sys.stderr)
        self.exit(_ERROR, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="kubectl-ollama", description="Look at fleets of Ollama servers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    status = commands.add_parser("status", help="deployments, servers, models: what is ready, and why not")
    status.add_argument("name", nargs="?", help="one OllamaDeployment (default: all)")
    scope = status.add_mutually_exclusive_group()
    scope.add_argument("-n", "--namespace", help="default: that of the context")
    scope.add_argument("-A", "--all-namespaces", action="store_true")
    status.add_argument("-o", "--output", choices=("tree", "json"), default="tree")
    status.add_argument("--context", help="context of the kubeconfig")
    status.add_argument("--kubeconfig", help="path of the kubeconfig")
    plan = commands.add_parser(
        "plan",
        help="what would run on given GPUs, and what would not fit; needs no cluster",
        description=planargs.DESCRIPTION,
        epilog=planargs.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    planargs.add_arguments(plan)
    commands.add_parser("version", help="version of this program")
    return parser


def _plan(options: argparse.Namespace) -> int:
    # Only now: the planner's models take longer to import than the other commands to run.
    from ollama_fleet.cli import plan  # noqa: PLC0415

    return plan.run(options)


def _version(_: argparse.Namespace) -> int:
    print(f"kubectl-ollama {__version__}")
    return _READY


def _status(options: argparse.Namespace) -> int:
    given = (("context", options.context), ("kubeconfig", options.kubeconfig))
    cluster = Cluster(tuple(f"--{name}={value}" for name, value in given if value))
    namespace = None if options.all_namespaces else options.namespace or cluster.namespace()
    found = cluster.list(_DEPLOYMENTS, namespace=namespace)
    if options.name:
        found = [deployment for deployment in found if deployment["metadata"]["name"] == options.name]
    where = "any namespace" if namespace is None else f"namespace {namespace}"
    if not found:
        wanted = f"OllamaDeployment {options.name}" if options.name else "OllamaDeployment"
        raise CannotRead(f"there is no {wanted} in {where}: create one, or look elsewhere with -n or -A")
    if options.output == "json":
        print(json.dumps(found, indent=2))
    else:
        for line in render(found, cluster.list("pods", namespace=namespace)):
            print(line)
    return _READY if all(map(is_ready, found)) else _NOT_READY


_COMMANDS: Final = {"status": _status, "plan": _plan, "version": _version}


if __name__ == "__main__":
    sys.exit(main())
