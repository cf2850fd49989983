"""``kubectl ollama status``: what is ready, and why not."""

import argparse
import json
import sys
from typing import Final

from ollama_fleet.api import names
from ollama_fleet.cli.cluster import CannotRead, Cluster
from ollama_fleet.cli.tree import is_ready, render

_READY, _ERROR, _NOT_READY = 0, 1, 2
_DEPLOYMENTS: Final = f"ollamadeployments.{names.GROUP}"


def run(options: argparse.Namespace) -> int:
    """0 when all asked for is Ready, 2 when something is not, 1 when it cannot be told."""
    try:
        return _status(options)
    except CannotRead as error:
        sys.stderr.write(f"kubectl-ollama: {error}\n")
        return _ERROR


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
        for line in render(found, cluster.list("pods", namespace=namespace, selector=names.LABEL_DEPLOYMENT)):
            print(line)
    return _READY if all(map(is_ready, found)) else _NOT_READY
