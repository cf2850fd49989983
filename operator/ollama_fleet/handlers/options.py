"""The operator's command line."""

import argparse
import os
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ollama_fleet.telemetry import logs

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    fleet_image: str
    ollama_repository: str
    ollama_digests: dict[str, str]
    fleet_namespaces: tuple[str, ...]
    agents: bool
    workers: int
    namespace: str
    lease_name: str
    identity: str
    health_port: int
    log_format: logs.Format
    kubeconfig: str | None
    context: str | None


def parse(arguments: Sequence[str]) -> Options:
    """Read the command line; exits with 2 and a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="ollama-fleet operator", description="Makes OllamaDeployments and ModelSets true."
    )
    add = parser.add_argument
    add("--fleet-image", required=True, help="image of the puller and the sidecar: this product's own")
    add("--ollama-repository", default="ollama/ollama", help="repository of the Ollama images (default: %(default)s)")
    add(
        "--ollama-digests",
        type=_digests,
        default={},
        help="VERSION=sha256:... of known images, with commas; other versions run by their tag",
    )
    add(
        "--fleet-namespaces",
        type=_names,
        default=(),
        help="namespaces of agents and gateways, with commas; that of the operator is always one",
    )
    add("--agents", action="store_true", help="every node has an agent: policy VRAM waits for its report")
    add("--workers", type=int, default=8, help="reconciles at the same time (default: %(default)s)")
    add(
        "--namespace",
        default=os.environ.get("POD_NAMESPACE", "default"),
        help="namespace of the Lease (default: $POD_NAMESPACE)",
    )
    add("--lease-name", default="ollama-fleet", help="name of the Lease (default: %(default)s)")
    add("--identity", default=os.environ.get("POD_NAME") or _identity(), help="who this is (default: $POD_NAME)")
    add("--health-port", type=int, default=8080, help="/livez, /readyz, /metrics (default: %(default)s)")
    add("--log-format", choices=("json", "text"), default="json")
    add("--kubeconfig", help="outside a cluster (default: $KUBECONFIG)")
    add("--context", help="context of the kubeconfig")
    return Options(**vars(parser.parse_args(arguments)))


def _identity() -> str:
    """Outside a cluster two processes may share a host, and must not both lead."""
    return f"{socket.gethostname()}-{secrets.token_hex(4)}"


def _digests(text: str) -> dict[str, str]:
    pairs = (entry.partition("=") for entry in _names(text))
    found = {version: digest for version, _, digest in pairs}
    if not all(_DIGEST.fullmatch(digest) for digest in found.values()):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of VERSION=sha256:...")
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)
