"""The three containers of a server's pod: puller, sidecar and Ollama."""

from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.manifests.storage import config_mount, secret_mounts, shares_claim, store_mounts
from ollama_fleet.planning.inventory import GPU_RESOURCE
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.quantities import quantity

_LOCKED_DOWN: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_TMP: Final = {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - a volume of the pod


def puller(group: Group) -> dict[str, Any]:
    """The init container that fills the store. It retries inside: restarts would back off up to five minutes."""
    return {
        "name": names.CONTAINER_PULLER,
        "image": group.fleet_image,
        "args": ["puller", f"--mode={'verify' if shares_claim(group) else 'init'}"],
        "ports": [{"name": "progress", "containerPort": names.PORT_PROGRESS}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _LOCKED_DOWN,
        "volumeMounts": [*_store(group), config_mount(), *secret_mounts(group), _TMP],
    }


def sidecar(group: Group) -> dict[str, Any]:
    """The door, as a native sidecar. Its start must not wait for Ollama, which starts after it."""
    return {
        "name": names.CONTAINER_SIDECAR,
        "image": group.fleet_image,
        "args": ["sidecar"],
        "restartPolicy": "Always",
        "ports": [
            {"name": "http", "containerPort": names.PORT_DATA},
            {"name": "admin", "containerPort": names.PORT_ADMIN},
        ],
        "startupProbe": {**_probe("/livez"), "periodSeconds": 1, "failureThreshold": 60},
        "livenessProbe": {**_probe("/livez"), "periodSeconds": 10, "failureThreshold": 3},
        "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _LOCKED_DOWN,
        "volumeMounts": [*_store(group), config_mount(), _TMP],
    }


def ollama(group: Group) -> dict[str, Any]:
    """Ollama itself: on loopback, with every probe answered by the sidecar."""
    return {
        "name": names.CONTAINER_OLLAMA,
        "image": group.image,
        "env": [{"name": setting.name, "value": setting.value} for setting in group.environment],
        # GPU discovery may take half a minute before Ollama answers anything.
        "startupProbe": {**_probe("/ollama-livez"), "periodSeconds": 1, "failureThreshold": 180},
        "livenessProbe": {**_probe("/ollama-livez"), "periodSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**_probe("/readyz"), "periodSeconds": 2, "failureThreshold": 2},
        # Hooks of all containers run at once and a sidecar is only stopped after the others: so it is this
        # container that waits until the sidecar has let the last stream end.
        "lifecycle": {"preStop": {"httpGet": {"path": "/drain", "port": names.PORT_ADMIN}}},
        "resources": _resources(group),
        "securityContext": _LOCKED_DOWN,
        "volumeMounts": [
            *store_mounts(manifests_read_only=True, blobs_read_only=True),
            {"name": "home", "mountPath": "/home/ollama"},
            _TMP,
        ],
    }


def _probe(path: str) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": names.PORT_ADMIN}, "timeoutSeconds": 5}


def _resources(group: Group) -> dict[str, Any]:
    gpu, cpu = group.hardware.gpu, group.hardware.cpu
    if gpu is not None:
        devices, memory = {gpu.resource_name or GPU_RESOURCE: str(gpu.count)}, group.memory
        if not memory.request:
            return {"limits": devices}
        limits = {**devices, "memory": quantity(memory.limit)}
        return {"requests": {"memory": quantity(memory.request)}, "limits": limits}
    if cpu is not None:
        # No CPU limit: idle cores are free to use; memory is a limit because the kernel cannot take it back.
        return {"requests": {"cpu": cpu.cores, "memory": cpu.memory}, "limits": {"memory": cpu.memory}}
    return {}


def _store(group: Group) -> list[dict[str, Any]]:
    return store_mounts(blobs_read_only=shares_claim(group))
