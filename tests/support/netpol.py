"""A small evaluator of NetworkPolicies: what a policy engine would let through.

Only what our policies use: match labels, namespaces by name, blocks of addresses, ports by number. Anything else
is an error, so that a rule which the evaluator does not understand can never count as passed.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """A pod, or with ``namespace`` None something outside of the cluster, which has an address."""

    namespace: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""


OUTSIDE = Peer(None, address="203.0.113.7")


def admits(policy: Mapping[str, Any], *, source: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the selected pod takes a connection from ``source``."""
    return _any(
        policy["spec"]["ingress"], "from", source, own=policy["metadata"]["namespace"], port=port, protocol=protocol
    )


def lets_out(policy: Mapping[str, Any], *, target: Peer, port: int, protocol: str = "TCP") -> bool:
    """Whether the selected pod may connect to ``target``."""
    return _any(
        policy["spec"]["egress"], "to", target, own=policy["metadata"]["namespace"], port=port, protocol=protocol
    )


def selects(policy: Mapping[str, Any], pod: Peer) -> bool:
    """Whether the policy is about a pod."""
    return pod.namespace == policy["metadata"]["namespace"] and _matches(policy["spec"]["podSelector"], pod.labels)


def _any(rules: Iterable[Mapping[str, Any]], side: str, peer: Peer, *, own: str, port: int, protocol: str) -> bool:
    return any(
        _ports(rule.get("ports"), port, protocol)
        and (side not in rule or any(_is(wanted, peer, own) for wanted in rule[side]))
        for rule in rules
    )


def _ports(ports: Any, port: int, protocol: str) -> bool:
    return ports is None or any((entry["port"], entry.get("protocol", "TCP")) == (port, protocol) for entry in ports)


def _is(wanted: Mapping[str, Any], peer: Peer, own: str) -> bool:
    if "ipBlock" in wanted:
        # What a block means for pods differs between engines: it only counts for what is outside.
        assert wanted.keys() == {"ipBlock"}, wanted
        return peer.namespace is None and _in_block(wanted["ipBlock"], peer.address)
    assert wanted.keys() <= {"podSelector", "namespaceSelector"}, wanted
    if peer.namespace is None:
        return False
    if "namespaceSelector" in wanted:
        if not _named(wanted["namespaceSelector"], peer.namespace):
            return False
    elif peer.namespace != own:
        return False
    return _matches(wanted.get("podSelector", {}), peer.labels)


def _named(selector: Mapping[str, Any], namespace: str) -> bool:
    """Namespaces carry their name as a label."""
    if not selector:
        return True
    assert selector.keys() == {"matchExpressions"}, selector
    (expression,) = selector["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "In"), selector
    return namespace in expression["values"]


def _in_block(block: Mapping[str, Any], address: str) -> bool:
    assert block.keys() <= {"cidr", "except"}, block
    found = ipaddress.ip_address(address)
    return found in ipaddress.ip_network(block["cidr"]) and not any(
        found in ipaddress.ip_network(hole) for hole in block.get("except", ())
    )


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}, selector
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
