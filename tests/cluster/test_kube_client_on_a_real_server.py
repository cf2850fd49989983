"""What the client relies on, asked of a real API server."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_fleet.api import names
from ollama_fleet.kube import client as client_module
from ollama_fleet.kube import errors
from ollama_fleet.kube.client import STRATEGIC_MERGE_PATCH, KubeClient
from ollama_fleet.kube.events import EventRecorder
from ollama_fleet.kube.kinds import CONFIG_MAP, DEPLOYMENT, EVENT, MODEL_SET, POD
from ollama_fleet.kube.transport import Json

pytestmark = pytest.mark.cluster

OTHER_UID = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
async def kube(control_plane: Any) -> AsyncIterator[KubeClient]:
    client = await KubeClient.connect(kubeconfig=str(control_plane.kubeconfig))
    yield client
    await client.close()


@pytest.fixture
def name() -> str:
    return f"kube-{uuid.uuid4().hex[:8]}"


def config_map(name: str, data: dict[str, str], **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", **metadata},
        "data": data,
    }


def pod(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [{"name": "c", "image": "none.invalid/none"}],
            "automountServiceAccountToken": False,
            **spec,
        },
    }


async def model_set(kube: KubeClient, name: str) -> Json:
    return await kube.create(
        {
            "apiVersion": names.API_VERSION,
            "kind": "ModelSet",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"models": [{"name": "chat", "model": "llama3.1:8b"}]},
        }
    )


async def test_an_apply_that_changes_nothing_leaves_the_object_alone(kube: KubeClient, name: str) -> None:
    first = await kube.apply(config_map(name, {"a": "1", "b": "2"}))
    again = await kube.apply(config_map(name, {"a": "1", "b": "2"}))
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    less = await kube.apply(config_map(name, {"a": "1"}))
    assert less["data"] == {"a": "1"}
    assert less["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]


async def test_an_apply_takes_back_what_another_changed(kube: KubeClient, name: str) -> None:
    await kube.apply(config_map(name, {"a": "1"}))
    patch = {"data": {"a": "9", "theirs": "1"}}
    await kube.patch(CONFIG_MAP, "default", name, patch, content_type=client_module.MERGE_PATCH)
    assert (await kube.apply(config_map(name, {"a": "1"})))["data"] == {"a": "1", "theirs": "1"}


async def test_a_dry_run_stores_nothing(kube: KubeClient, name: str) -> None:
    await kube.apply(config_map(name, {}), dry_run=True)
    await kube.create(config_map(name, {}), dry_run=True)
    assert await kube.get(CONFIG_MAP, "default", name) is None


async def test_an_unknown_field_is_invalid(kube: KubeClient, name: str) -> None:
    with pytest.raises(errors.Invalid, match="containerz"):
        await kube.apply(pod(name, containerz=[]))
    with pytest.raises(errors.Invalid) as caught:
        await kube.create(pod(name, priority="high"))
    assert not isinstance(caught.value, errors.Retryable)


async def test_an_invalid_field_is_named(kube: KubeClient, name: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        await kube.apply(pod(name, restartPolicy="Sometimes"))
    assert [field for field, _ in caught.value.causes] == ["spec.restartPolicy"]


async def test_a_second_create_and_a_stale_replace_are_conflicts(kube: KubeClient, name: str) -> None:
    stored = await kube.create(config_map(name, {"a": "1"}))
    with pytest.raises(errors.AlreadyExists):
        await kube.create(config_map(name, {}))
    await kube.replace({**stored, "data": {"a": "2"}})
    with pytest.raises(errors.Conflict):
        await kube.replace({**stored, "data": {"a": "3"}})


async def test_a_delete_touches_only_the_very_object(kube: KubeClient, name: str) -> None:
    stored = await kube.create(config_map(name, {}))
    uid = stored["metadata"]["uid"]
    with pytest.raises(errors.Conflict):
        await kube.delete(CONFIG_MAP, "default", name, uid=OTHER_UID)
    with pytest.raises(errors.Conflict):
        await kube.delete(CONFIG_MAP, "default", name, uid=uid, resource_version="1")
    assert await kube.delete(CONFIG_MAP, "default", name, uid=uid)
    assert not await kube.delete(CONFIG_MAP, "default", name, uid=uid)


async def test_a_status_is_written_whole_and_only_when_it_differs(kube: KubeClient, name: str) -> None:
    created = await model_set(kube, name)
    uid = created["metadata"]["uid"]
    assert created["status"] == {"observedGeneration": -1}
    status = {"observedGeneration": 1, "conditions": [condition("Ready"), condition("Reconciling")]}
    first = await kube.apply_status(MODEL_SET, "default", name, status, uid=uid)
    again = await kube.apply_status(MODEL_SET, "default", name, status, uid=uid)
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert first["metadata"]["generation"] == 1
    less = {"observedGeneration": 1, "conditions": [condition("Ready")]}
    assert (await kube.apply_status(MODEL_SET, "default", name, less, uid=uid))["status"] == less


def condition(kind: str) -> Json:
    return {
        "type": kind,
        "status": "True",
        "reason": "Resolved",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


async def test_a_status_of_another_incarnation_is_refused(kube: KubeClient, name: str) -> None:
    await model_set(kube, name)
    with pytest.raises(errors.Conflict):
        await kube.apply_status(MODEL_SET, "default", name, {"observedGeneration": 7}, uid=OTHER_UID)
    with pytest.raises(errors.NotFound):
        await kube.apply_status(MODEL_SET, "default", f"{name}x", {}, uid=OTHER_UID)
    stored = await kube.get(MODEL_SET, "default", name)
    assert stored is not None
    assert stored["status"]["observedGeneration"] == -1


async def test_a_pod_s_gate_is_patched_beside_what_others_wrote(kube: KubeClient, name: str) -> None:
    stored = await kube.create(pod(name))

    async def gate(uid: str) -> Json:
        body = {
            "metadata": {"uid": uid},
            "status": {"conditions": [{"type": names.READINESS_GATE, "status": "True"}]},
        }
        return await kube.patch(POD, "default", name, body, content_type=STRATEGIC_MERGE_PATCH, subresource="status")

    with pytest.raises(errors.Conflict):
        await gate(OTHER_UID)
    patched = await gate(stored["metadata"]["uid"])
    assert names.READINESS_GATE in {entry["type"] for entry in patched["status"]["conditions"]}
    await kube.delete(POD, "default", name, uid=stored["metadata"]["uid"])


async def test_pod_security_is_told_apart(kube: KubeClient, name: str, control_plane: Any) -> None:
    namespace = await restricted_namespace(kube, name)
    refused = pod(name)
    refused["metadata"]["namespace"] = namespace
    with pytest.raises(errors.PodSecurityForbidden):
        await kube.create(refused, dry_run=True)


async def restricted_namespace(kube: KubeClient, name: str) -> str:
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    # Not a kind of the operator's: it never writes namespaces.
    await kube._transport.json(
        "POST", "/api/v1/namespaces", verb="create", resource="namespaces", body=body, timeout=10
    )
    return name


async def test_a_list_in_chunks_is_whole(kube: KubeClient, name: str) -> None:
    labels = {"test": name}
    await asyncio.gather(*(kube.create(config_map(f"{name}-{number}", {}, labels=labels)) for number in range(7)))
    items, version = await kube.list(CONFIG_MAP, namespace="default", label_selector=f"test={name}", limit=2)
    assert len({item["metadata"]["name"] for item in items}) == 7
    assert all(item["kind"] == "ConfigMap" for item in items)
    assert version.isdecimal()


async def test_a_watch_sends_changes_and_a_bookmark_before_it_ends(
    kube: KubeClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "WATCH_SECONDS", 8)
    labels = {"test": name}
    _, version = await kube.list(CONFIG_MAP, namespace="default", label_selector=f"test={name}")
    await kube.apply(config_map(name, {"a": "1"}, labels=labels))

    async def change() -> None:
        await asyncio.sleep(0.5)
        await kube.apply(config_map(name, {"a": "2"}, labels=labels))
        await kube.apply(config_map(name, {"a": "2"}))

    changes = asyncio.create_task(change())
    watch = kube.watch(CONFIG_MAP, namespace="default", label_selector=f"test={name}", resource_version=version)
    async with asyncio.timeout(30):
        events = [(kind, obj["metadata"]["resourceVersion"]) async for kind, obj in watch]
    await changes
    assert [kind for kind, _ in events][:4] == ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    assert int(events[-1][1]) >= int(events[-2][1])


async def test_an_event_is_stored_and_counted(kube: KubeClient, name: str) -> None:
    stored = await kube.create(config_map(name, {}))
    now = 0.0
    recorder = EventRecorder(kube, component="operator", instance="test", clock=lambda: now)
    stored |= {"apiVersion": "v1", "kind": "ConfigMap"}
    recorder.record(stored, reason="Pulling", message="10 %")
    await recorder.flush()
    recorder.record(stored, reason="Pulling", message="20 %")
    now = 100.0
    await recorder.flush()
    items, _ = await kube.list(EVENT, namespace="default")
    ours = [item for item in items if item["involvedObject"]["name"] == name]
    assert [(item["count"], item["message"]) for item in ours] == [(2, "20 %")]
    assert recorder.dropped == 0


async def test_a_kind_that_is_not_installed_is_not_found(kube: KubeClient) -> None:
    absent = client_module.Kind("ollamafleet.io/v1", "Absent", "absents")
    with pytest.raises(errors.NotFound):
        await kube.list(absent)
    assert await kube.get(DEPLOYMENT, "default", "absent") is None
