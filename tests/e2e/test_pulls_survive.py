"""A pull that is broken off goes on where it was: neither a killed puller nor a lost registry starts it anew."""

from collections.abc import Iterator
from typing import Any

import pytest

from testbed.models.push import image
from tests.e2e.conftest import Fleet, deployment, model_set
from tests.e2e.test_it_recovers import container, kill_container
from tests.support.slow_link import SlowLink, slow_link

pytestmark = pytest.mark.e2e

LARGE = {"name": "chat-large", "contextLength": 512}
RATE = 1_000_000


@pytest.fixture
def link(fleet: Fleet) -> Iterator[SlowLink]:
    """The way to the registry, at 1 MB/s: the model takes twelve seconds."""
    host, _, port = fleet.registry.host.rpartition(":")
    with slow_link(host, int(port), listen=fleet.plane.address, bytes_per_second=RATE) as made:
        yield made


def through(fleet: Fleet, link: SlowLink, namespace: str) -> dict[str, Any]:
    wish = model_set(fleet, namespace, LARGE)
    wish["spec"]["source"]["registry"] = f"{fleet.plane.address}:{link.port}"
    return wish


def download(fleet: Fleet, namespace: str) -> dict[str, int]:
    models = fleet.get("od", "chat", namespace).get("status", {}).get("models", [])
    found: dict[str, int] = models[0].get("download", {}) if models else {}
    return found


def wait_for_a_part(fleet: Fleet, namespace: str, *, percent: int = 10) -> None:
    """Until the status tells of a download under way."""
    fleet.wait("progress", lambda: percent <= download(fleet, namespace).get("percent", 0) < 95, seconds=60)


def size() -> int:
    return sum(map(len, image("chat-large").blobs.values()))


def test_a_killed_puller_goes_on_where_it_was(fleet: Fleet, namespace: str, link: SlowLink) -> None:
    fleet.apply(through(fleet, link, namespace), deployment(namespace))
    wait_for_a_part(fleet, namespace, percent=60)
    kill_container(fleet, namespace, "puller")
    print(f"killed puller: ready after {fleet.wait_ready('chat', namespace):.1f} s")
    (pod,) = fleet.pods(namespace)
    assert container(pod, "puller")["restartCount"] == 1
    print(f"{link.forwarded} bytes for a model of {size()}")
    # Anew would be 1.6 times; two seconds since the last checkpoint and what was on its way are fetched again.
    assert link.forwarded < 1.5 * size()


def test_a_registry_that_goes_away_in_a_pull_is_waited_for(fleet: Fleet, namespace: str, link: SlowLink) -> None:
    fleet.apply(through(fleet, link, namespace), deployment(namespace))
    wait_for_a_part(fleet, namespace)
    link.close()
    message = fleet.wait_reason("od", "chat", namespace, "RegistryUnreachable")["message"]
    assert "chat-large" in message
    assert fleet.condition("od", "chat", namespace, "Stalled")["status"] == "False"
    link.open()
    print(f"registry back in a pull: ready after {fleet.wait_ready('chat', namespace):.1f} s")
    (pod,) = fleet.pods(namespace)
    assert container(pod, "puller")["restartCount"] == 0
    assert link.forwarded < 1.2 * size()
