"""Who reaches a server and whom it reaches, by evaluating the rendered rules; tests/e2e has them enforced."""

from dataclasses import replace
from typing import Any

import pytest
import yaml

from ollama_fleet.api import names
from ollama_fleet.manifests.names import Owner, labels
from ollama_fleet.manifests.prepull import prepull_job
from ollama_fleet.manifests.render import render
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.planner import plan_deployment
from testbed.paths import ROOT
from tests.support.netpol import OUTSIDE, Peer, admits, lets_out, selects
from tests.support.plans import request, view

OWNER = Owner("ns", "chat", "u")
CLIENT, STRANGER = Peer("ns", {"app": "web"}), Peer("elsewhere", {"app": "web"})
ROLES = ("operator", "gateway", "agent")
OPERATOR, GATEWAY, AGENT = (
    Peer("fleet", {names.LABEL_NAME: "ollama-fleet", names.LABEL_COMPONENT: role}) for role in ROLES
)
PRETENDERS = [Peer("elsewhere", peer.labels) for peer in (OPERATOR, GATEWAY, AGENT)]
"""Anybody may label pods in a namespace of their own."""


def group() -> Group:
    asked = replace(request(view({"name": "a"})), fleet_namespaces=("fleet",))
    return plan_deployment(asked).groups[0]


def policy() -> dict[str, Any]:
    return {wish["kind"]: wish for wish in render(group(), owner=OWNER, live=None)}["NetworkPolicy"]


@pytest.mark.parametrize(
    ("source", "port", "admitted"),
    [
        (CLIENT, names.PORT_DATA, True),
        (GATEWAY, names.PORT_DATA, True),
        (STRANGER, names.PORT_DATA, False),
        (OUTSIDE, names.PORT_DATA, False),
        (OPERATOR, names.PORT_ADMIN, True),
        (GATEWAY, names.PORT_ADMIN, True),
        (AGENT, names.PORT_ADMIN, True),
        (OUTSIDE, names.PORT_ADMIN, False),
        (CLIENT, names.PORT_ADMIN, False),
        (STRANGER, names.PORT_ADMIN, False),
        (OPERATOR, names.PORT_PROGRESS, True),
        (GATEWAY, names.PORT_PROGRESS, False),
        (CLIENT, names.PORT_PROGRESS, False),
        (AGENT, names.PORT_DATA, False),
        (CLIENT, names.PORT_OLLAMA, False),
        (OPERATOR, names.PORT_OLLAMA, False),
    ],
)
def test_who_reaches_which_port(source: Peer, port: int, *, admitted: bool) -> None:
    assert admits(policy(), source=source, port=port) is admitted


@pytest.mark.parametrize("port", [names.PORT_DATA, names.PORT_ADMIN, names.PORT_PROGRESS])
@pytest.mark.parametrize("pretender", PRETENDERS, ids=ROLES)
def test_labels_of_the_fleet_count_only_in_its_own_namespaces(pretender: Peer, port: int) -> None:
    assert not admits(policy(), source=pretender, port=port)


@pytest.mark.parametrize(
    ("target", "port", "protocol", "allowed"),
    [
        (OUTSIDE, 53, "UDP", True),
        (OUTSIDE, 443, "TCP", True),
        (Peer(None, address="2001:db8::7"), 443, "TCP", True),
        (Peer(None, address="169.254.169.254"), 443, "TCP", False),
        (Peer(None, address="fd00:ec2::254"), 443, "TCP", False),
        (Peer(None, address="169.254.20.10"), 53, "UDP", True),
        (Peer("registry", {}), 5000, "TCP", True),
        (OUTSIDE, 8080, "TCP", False),
        (OUTSIDE, 22, "TCP", False),
    ],
)
def test_where_a_server_may_connect_to(target: Peer, port: int, protocol: str, *, allowed: bool) -> None:
    assert lets_out(policy(), target=target, port=port, protocol=protocol) is allowed


def test_a_server_may_connect_to_the_registry_of_an_adapter() -> None:
    port, asked = 5443, view({"name": "a", "modelfile": {"adapter": "lora.test:5443/team/lora:v1"}})
    (model,) = asked.status.models
    resolved = model.model_copy(update={"adapter": f"lora.test:{port}/team/lora:v1@sha256:{'b' * 64}"})
    status = asked.status.model_copy(update={"models": [resolved]})
    (with_adapter,) = plan_deployment(request(replace(asked, status=status))).groups
    (found,) = (w for w in render(with_adapter, owner=OWNER, live=None) if w["kind"] == "NetworkPolicy")
    assert lets_out(found, target=OUTSIDE, port=port, protocol="TCP")
    assert not lets_out(policy(), target=OUTSIDE, port=port, protocol="TCP")


def test_the_policy_is_about_the_servers_and_not_about_the_jobs_that_pull_for_them() -> None:
    assert selects(policy(), Peer("ns", labels(OWNER, "g0")))
    assert not selects(policy(), Peer("ns", labels(OWNER, "g1")))
    job = prepull_job(group(), owner=OWNER, node="n")
    assert not selects(policy(), Peer("ns", job["spec"]["template"]["metadata"]["labels"]))


def test_the_charts_operator_has_the_labels_that_the_policy_asks_for() -> None:
    helper = (ROOT / "charts/ollama-fleet/templates/_helpers.tpl").read_text()
    chart = yaml.safe_load((ROOT / "charts/ollama-fleet/Chart.yaml").read_text())
    assert chart["name"] == OPERATOR.labels[names.LABEL_NAME]
    assert "app.kubernetes.io/component: operator" in helper
