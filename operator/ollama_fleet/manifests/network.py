"""Who may talk to a server, and whom it may talk to."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.references import parse_reference
from ollama_fleet.manifests.names import Owner, metadata, selector
from ollama_fleet.planning.plan import Group

_ANYWHERE: Final[dict[str, Any]] = {"namespaceSelector": {}}
_INTERNET: Final[list[dict[str, Any]]] = [
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128", "fe80::/10"]}},
]
"""Without the addresses where clouds hand out a machine's credentials."""
_FLEET: Final = "ollama-fleet"
"""``app.kubernetes.io/name`` of this product's own pods."""


def network_policy(group: Group, *, owner: Owner) -> dict[str, Any]:
    """Models for pods of the namespace and gateways, administration for the operator, gateways and agents.

    Kubelets probe from the node, which network policies do not restrict.
    """
    role = partial(_role, namespaces=group.fleet_namespaces)
    data, admin, progress = _port(names.PORT_DATA), _port(names.PORT_ADMIN), _port(names.PORT_PROGRESS)
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(owner, group.name),
        "spec": {
            "podSelector": {"matchLabels": selector(owner, group.name)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [{"podSelector": {}}, role("gateway")], "ports": [data]},
                {"from": [role("operator"), role("gateway"), role("agent")], "ports": [admin]},
                {"from": [role("operator")], "ports": [progress]},
            ],
            "egress": [
                {"ports": [{"port": 53, "protocol": "UDP"}, _port(53)]},
                # A registry in the cluster: behind a Service, whose port says nothing about the pod's.
                {"to": [_ANYWHERE]},
                {"to": _INTERNET, "ports": [_port(port) for port in _registry_ports(group)]},
            ],
        },
    }


def _role(component: str, *, namespaces: Sequence[str]) -> dict[str, Any]:
    """Labels alone would not do: whoever makes pods in a namespace of their own chooses those."""
    return {
        "namespaceSelector": {
            "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(namespaces)}]
        },
        "podSelector": {"matchLabels": {names.LABEL_NAME: _FLEET, names.LABEL_COMPONENT: component}},
    }


def _port(number: int) -> dict[str, Any]:
    return {"port": number, "protocol": "TCP"}


def _registry_ports(group: Group) -> list[int]:
    """Ports of the registries of models and adapters; 443 also where a registry redirects to its storage."""
    ports = {443}
    for model in group.config.models:
        adapter = model.modelfile.adapter
        for host in (model.registry, *((parse_reference(adapter).host,) if adapter else ())):
            _, colon, port = host.rpartition(":")
            ports.add(int(port) if colon else (80 if model.insecure else 443))
    return sorted(ports)
