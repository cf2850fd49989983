"""kopf against a real API server: what it tells, what it survives, and that it writes nothing."""

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from ollama_fleet.api import names
from ollama_fleet.handlers.shell import run_shell
from ollama_fleet.kube import errors
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.kinds import MODEL_SET
from ollama_fleet.telemetry.health import Heartbeat

pytestmark = pytest.mark.cluster


async def create(kube: KubeClient, name: str) -> None:
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "ModelSet",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"models": [{"name": "chat", "model": "llama3.1:8b"}]},
    }
    async with asyncio.timeout(60):
        while True:
            try:
                await kube.create(body)
            except (errors.Unavailable, errors.Timeout):
                await asyncio.sleep(0.2)
            else:
                return


def verbs_of_kopf(audit_log: Path) -> set[str]:
    entries = (json.loads(line) for line in audit_log.read_text().splitlines())
    return {entry["verb"] for entry in entries if entry.get("userAgent", "").startswith("kopf/")}


async def test_it_outlives_the_server_and_leaves_no_trace(own_control_plane: Any) -> None:
    keys: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    started = asyncio.Event()
    kube = await KubeClient.connect(kubeconfig=str(own_control_plane.kubeconfig))
    shell = asyncio.create_task(
        run_shell(
            enqueue=lambda _kind, _namespace, name: keys.put_nowait(name),
            on_started=started.set,
            stop=stop,
            heart=Heartbeat("kopf's thread", limit=30),
            kubeconfig=str(own_control_plane.kubeconfig),
        )
    )

    async def told(name: str) -> None:
        async with asyncio.timeout(60):
            while await keys.get() != name:
                pass

    before, after = (f"kube-{uuid.uuid4().hex[:8]}" for _ in range(2))
    await asyncio.wait_for(started.wait(), 30)
    await create(kube, before)
    await told(before)
    own_control_plane.processes.kill("kube-apiserver")
    await asyncio.to_thread(own_control_plane.up)
    await create(kube, after)
    await told(after)
    stop.set()
    await asyncio.wait_for(shell, 20)

    for name in (before, after):
        stored = await kube.get(MODEL_SET, "default", name)
        assert stored is not None
        assert {"annotations", "finalizers"}.isdisjoint(stored["metadata"])
        assert stored["status"] == {"observedGeneration": -1}
    await kube.close()
    verbs = verbs_of_kopf(own_control_plane.audit_log)
    assert {"list", "watch"} <= verbs <= {"get", "list", "watch"}
