"""Composition roots: ``ollama-fleet ROLE`` starts one role of the product."""

import importlib
import sys
from collections.abc import Sequence
from typing import Final

from ollama_fleet import __version__

# Modules, not functions: a role imports only what it needs.
_ROLES: Final = {
    "agent": ("ollama_fleet.agent.main", "report the GPU memory and the resident models of a node"),
    "operator": ("ollama_fleet.handlers.main", "watch the custom resources and make them true"),
    "puller": ("ollama_fleet.store.main", "fill a model store from registries"),
    "sidecar": ("ollama_fleet.sidecar.main", "guard, warm and drain the Ollama of a pod"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the role that the first argument names; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(f"ollama-fleet {__version__}")  # noqa: T201 - the answer
        return 0
    if not arguments or arguments[0] not in _ROLES:
        wrong = f"unknown role {arguments[0]!r}\n" if arguments and not arguments[0].startswith("-") else ""
        sys.stderr.write(f"{wrong}{_usage()}")
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    module, _ = _ROLES[arguments[0]]
    code: int = importlib.import_module(module).main(arguments[1:])
    return code


def _usage() -> str:
    roles = "".join(f"  {name:<10} {does}\n" for name, (_, does) in _ROLES.items())
    return f"usage: ollama-fleet ROLE [OPTION ...]\n\nRoles (each explains its options with --help):\n{roles}"
