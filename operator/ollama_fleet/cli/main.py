"""``kubectl ollama``: what people ask a fleet."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from ollama_fleet import __version__
from ollama_fleet.cli import planargs

_DONE, _ERROR = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all asked for is Ready or fits, 2 when something is or does not, 1 when it cannot be told."""
    options = _parser().parse_args(arguments)
    try:
        found = _COMMANDS[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has seen enough; without this the interpreter would complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _ERROR
    return found


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


def _status(options: argparse.Namespace) -> int:
    # Commands are imported when they are run: help and completion must not wait for all of them.
    from ollama_fleet.cli import status  # noqa: PLC0415

    return status.run(options)


def _plan(options: argparse.Namespace) -> int:
    from ollama_fleet.cli import plan  # noqa: PLC0415

    return plan.run(options)


def _version(_: argparse.Namespace) -> int:
    print(f"kubectl-ollama {__version__}")
    return _DONE


_COMMANDS: Final = {"status": _status, "plan": _plan, "version": _version}


if __name__ == "__main__":
    sys.exit(main())
