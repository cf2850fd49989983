"""The closed set of reasons in conditions, events, states and progress.

Every reason is one CamelCase word group with one meaning everywhere; ``docs/conditions.md`` explains each.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a condition has its value."""

    # It works.
    ALL_WARM = "AllWarm"
    RESOLVED = "Resolved"
    SUSPENDED = "Suspended"
    # On its way.
    RESOLVING = "Resolving"
    PULLING = "Pulling"
    PLACING = "Placing"
    STARTING = "Starting"
    LOADING = "Loading"
    ROLLING_OUT = "RollingOut"
    SCALING = "Scaling"
    # Waiting for something outside.
    REGISTRY_UNREACHABLE = "RegistryUnreachable"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CRASHING = "ContainerCrashing"
    LOAD_FAILED = "LoadFailed"
    # Somebody must change something.
    MODEL_SET_MISSING = "ModelSetMissing"
    MODEL_CONFLICT = "ModelConflict"
    MODEL_NOT_FOUND = "ModelNotFound"
    INVALID_MANIFEST = "InvalidManifest"
    DIGEST_MISMATCH = "DigestMismatch"
    UNAUTHORIZED = "Unauthorized"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a secret
    UNSUPPORTED_VERSION = "UnsupportedVersion"
    UNKNOWN_VARIABLE = "UnknownVariable"
    INVALID_SPEC = "InvalidSpec"
    POD_SECURITY_FORBIDDEN = "PodSecurityForbidden"
    NO_CAPACITY = "NoCapacity"
    DISK_FULL = "DiskFull"
    # The readiness gate.
    RESIDENT = "Resident"
    NOT_RESIDENT = "NotResident"
    CONTAINER_RESTARTED = "ContainerRestarted"
    CONFIG_PENDING = "ConfigPending"
    SIDECAR_UNREACHABLE = "SidecarUnreachable"
