"""Volumes of a server's pod: the pod's own store, the cache of blobs below it, and what puller and sidecar read."""

from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.ollamadeployment import EPHEMERAL, CacheSpec
from ollama_fleet.planning.plan import Group

DEFAULT_NODE_PATH: Final = "/var/lib/ollama-fleet"

_CONFIG_DIRECTORY, _, CONFIG_KEY = names.PATH_CONFIG.rpartition("/")


def volumes(group: Group, *, name: str, namespace: str) -> list[dict[str, Any]]:
    """All volumes of the pod."""
    cache = group.storage.cache or EPHEMERAL
    return [
        {"name": "models", "emptyDir": {}},
        {"name": "blobs", **_blobs(cache, namespace)},
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "config", "configMap": {"name": name, "items": [{"key": CONFIG_KEY, "path": CONFIG_KEY}]}},
        *(_secret("pull-secret", secret, ".dockerconfigjson") for secret in _pull_secrets(group)),
        *(_secret("ca", secret, "ca.crt") for secret in _ca_secrets(group)),
    ]


def store_mounts(*, manifests_read_only: bool = False, blobs_read_only: bool = False) -> list[dict[str, Any]]:
    """The store. Only blobs are shared between pods: Ollama reads manifests anew for every request."""
    return [
        _mount("models", names.PATH_MODELS, read_only=manifests_read_only),
        _mount("blobs", f"{names.PATH_MODELS}/blobs", read_only=blobs_read_only),
    ]


def shares_claim(group: Group) -> bool:
    """Whether the blobs are on a claim: there a Job is the only writer."""
    return (group.storage.cache or EPHEMERAL).type == "Claim"


def config_mount() -> dict[str, Any]:
    """The group configuration; a directory, so that changes arrive by the kubelet's symlink swap."""
    return {"name": "config", "mountPath": _CONFIG_DIRECTORY, "readOnly": True}


def secret_mounts(group: Group) -> list[dict[str, Any]]:
    """Registry credentials and authorities: the puller's only."""
    pulls = (("pull-secret", names.PATH_PULL_SECRETS, secret) for secret in _pull_secrets(group))
    authorities = (("ca", names.PATH_CA_SECRETS, secret) for secret in _ca_secrets(group))
    return [
        {"name": f"{kind}-{secret}", "mountPath": f"{path}/{secret}", "readOnly": True}
        for kind, path, secret in (*pulls, *authorities)
    ]


def _mount(name: str, path: str, *, read_only: bool) -> dict[str, Any]:
    mount: dict[str, Any] = {"name": name, "mountPath": path}
    return {**mount, "readOnly": True} if read_only else mount


def _blobs(cache: CacheSpec, namespace: str) -> dict[str, Any]:
    if cache.type == "Node":
        # One directory per namespace: a blob must not cross from one tenant to another by its digest alone.
        path = f"{(cache.path or DEFAULT_NODE_PATH).rstrip('/')}/{namespace}"
        return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}
    if cache.type == "Claim":
        return {"persistentVolumeClaim": {"claimName": cache.claim_name}}
    return {"emptyDir": {"sizeLimit": cache.size_limit} if cache.size_limit else {}}


def _secret(kind: str, secret: str, key: str) -> dict[str, Any]:
    return {
        "name": f"{kind}-{secret}",
        "secret": {"secretName": secret, "items": [{"key": key, "path": key}], "defaultMode": 0o440},
    }


def _pull_secrets(group: Group) -> list[str]:
    return sorted({model.pull_secret for model in group.config.models if model.pull_secret})


def _ca_secrets(group: Group) -> list[str]:
    return sorted({model.ca_secret for model in group.config.models if model.ca_secret})
