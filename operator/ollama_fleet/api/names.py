"""Names that several roles must agree on: labels, annotations, conditions, ports and paths.

Everything here is part of the interface to running pods: a changed value restarts or orphans them.
"""

from typing import Final

GROUP: Final = "ollamafleet.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

FIELD_MANAGER: Final = "ollama-fleet-operator"

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "ollama-fleet"
LABEL_DEPLOYMENT: Final = f"{GROUP}/deployment"
LABEL_GROUP: Final = f"{GROUP}/group"

ANNOTATION_APPLIED_HASH: Final = f"{GROUP}/applied-hash"
"""Hash of the object as last applied: equal means that an apply would change nothing."""
ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
"""Hash of the group configuration that the sidecar of a pod must have applied."""
ANNOTATION_TEMPLATE_HASH: Final = f"{GROUP}/template-hash"
"""``v<hash version>-<hash>`` of what restarts pods."""

ANNOTATION_TEMPLATE: Final = f"{GROUP}/template"
"""The pod template as rendered when it last changed: an upgraded operator renders others, and must not roll pods."""

READINESS_GATE: Final = f"{GROUP}/vram-resident"
SCHEDULING_GATE: Final = f"{GROUP}/placement"

CONTAINER_OLLAMA: Final = "ollama"
CONTAINER_SIDECAR: Final = "sidecar"
CONTAINER_PULLER: Final = "puller"

PORT_DATA: Final = 11434
"""The sidecar's data port: where clients and the Service reach the models."""
PORT_ADMIN: Final = 11435
"""The sidecar's admin port: health, drain, state, metrics."""
PORT_OLLAMA: Final = 11436
"""Ollama itself, on the pod's loopback only."""
PORT_PROGRESS: Final = 11437
"""The puller's progress."""
PORT_AGENT: Final = 11438
"""The node agent's probes and metrics."""

PATH_MODELS: Final = "/models"
"""``OLLAMA_MODELS`` of a pod: ``manifests/`` is the pod's own, ``blobs/`` is the cache."""
PATH_CONFIG: Final = "/etc/ollama-fleet/config/group.json"
"""The group configuration, mounted from a ConfigMap into puller and sidecar."""
PATH_PULL_SECRETS: Final = "/etc/ollama-fleet/pull-secrets"
"""Registry credentials, one directory per Secret (``.dockerconfigjson`` below it)."""
PATH_CA_SECRETS: Final = "/etc/ollama-fleet/ca-secrets"
"""Certificates of private registries, one directory per Secret (``ca.crt`` below it)."""
