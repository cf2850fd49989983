"""Packet filter rules: a few of our own, and the chains that kubelet and kube-proxy make and leave."""

import subprocess
from collections.abc import Iterator
from typing import Final

from testbed.controlplane import PODS

_COMMENT: Final = "ollama-fleet-testbed"
_PREFIX: Final = "KUBE-"
_POLICIES: Final = ("KUBE-ROUTER-", "KUBE-POD-FW-", "KUBE-NWPLCY-")
"""Chains of the enforcement of network policies."""
_FAMILIES: Final = ("iptables", "ip6tables")
_OWN: Final = (
    # Machines with other container engines drop forwarded packets.
    ("filter", "FORWARD", "-s", PODS, "-j", "ACCEPT"),
    ("filter", "FORWARD", "-d", PODS, "-j", "ACCEPT"),
    # Pods reach the outside under the machine's address, but each other under their own.
    ("nat", "POSTROUTING", "-s", PODS, "!", "-d", "10.0.0.0/8", "-j", "MASQUERADE"),
)


def foreign_chains() -> list[str]:
    """Chains with the names of Kubernetes; those of another Kubernetes when asked before the first node."""
    return sorted({line for line in existing() if f":{_PREFIX}" in line})


def add() -> None:
    """Add our own rules if they are not there."""
    present = {line for line in existing() if _COMMENT in line}
    if len(present) == len(_OWN):
        return
    _remove_from("iptables", (_PREFIX,), _COMMENT)
    for table, chain, *match in _OWN:
        comment = ("-m", "comment", "--comment", _COMMENT)
        _run("iptables", "-w", "-t", table, "-A", chain, *match[:-2], *comment, *match[-2:])


def remove(_: str = "") -> None:
    """Remove our rules, all chains of Kubernetes and what jumps to them."""
    for family in _FAMILIES:
        _remove_from(family, (_PREFIX,), _COMMENT)


def remove_policies() -> None:
    """Remove what enforces network policies; kube-proxy's and our own rules stay."""
    for family in _FAMILIES:
        _remove_from(family, _POLICIES)


def enforcing() -> bool:
    """Whether network policies are enforced: this rule comes last, after those of every pod."""
    return any("-A KUBE-ROUTER-FORWARD" in line and "explicitly ACCEPT" in line for line in existing())


def existing() -> set[str]:
    """All rules and all chains that are not built in, each as ``FAMILY TABLE LINE``."""
    found = set()
    for family in _FAMILIES:
        for table, line in _lines(family):
            if line.startswith("-A"):
                found.add(f"{family} {table} {line}")
            elif line.startswith(":") and line.split()[1] == "-":
                found.add(f"{family} {table} {line.split()[0]}")
    return found


def _remove_from(family: str, prefixes: tuple[str, ...], comment: str | None = None) -> None:
    """Remove the chains with these prefixes, what jumps to them, and the rules with the comment."""
    tables: dict[str, list[str]] = {}
    for table, line in _lines(family):
        tables.setdefault(table, []).append(line)
    script: list[str] = []
    for table, lines in tables.items():
        chains = [line[1:].split()[0] for line in lines if line[1:].startswith(prefixes)]
        marks = [*(f"-j {prefix}" for prefix in prefixes), *([comment] if comment else [])]
        theirs = [line for line in lines if line.startswith("-A") and not line[3:].startswith(prefixes)]
        jumps = [line for line in theirs if any(mark in line for mark in marks)]
        if chains or jumps:
            # Declaring a chain anew empties it; only an empty chain that nothing jumps to can go.
            script += [f"*{table}", *(f":{chain} - [0:0]" for chain in chains)]
            script += [line.replace("-A", "-D", 1) for line in jumps]
            script += [*(f"-X {chain}" for chain in chains), "COMMIT"]
    if script:
        _run(f"{family}-restore", "-w", "--noflush", text="\n".join([*script, ""]))


def _lines(family: str) -> Iterator[tuple[str, str]]:
    table = ""
    for line in _run(f"{family}-save").splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith((":", "-A")):
            yield table, line


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(list(command), input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout
