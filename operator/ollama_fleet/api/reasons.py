"""The closed set of reasons in conditions, events, states and progress.

Every reason is one CamelCase word group with one meaning everywhere; ``MEANINGS`` explains each.
"""

from enum import StrEnum
from typing import Final


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
    DOES_NOT_FIT = "DoesNotFit"
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
    CLAIM_MISSING = "ClaimMissing"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a secret
    UNSUPPORTED_VERSION = "UnsupportedVersion"
    UNKNOWN_VARIABLE = "UnknownVariable"
    INVALID_SPEC = "InvalidSpec"
    POD_SECURITY_FORBIDDEN = "PodSecurityForbidden"
    DISK_FULL = "DiskFull"
    # The readiness gate.
    RESIDENT = "Resident"
    NOT_RESIDENT = "NotResident"
    CONFIG_PENDING = "ConfigPending"
    SIDECAR_UNREACHABLE = "SidecarUnreachable"
    CPU_OFFLOAD = "CPUOffload"
    CONTEXT_TOO_SMALL = "ContextTooSmall"
    REPORT_STALE = "ReportStale"
    # A node's report.
    OBSERVED = "Observed"
    NO_GPU_FOUND = "NoGPUFound"
    GPU_UNHEALTHY = "GPUUnhealthy"
    DRIVER_FAILED = "DriverFailed"
    PODS_KNOWN = "PodsKnown"
    HOST_PID_OFF = "HostPIDOff"
    KUBELET_UNREACHABLE = "KubeletUnreachable"


_NOTHING = "Nothing to do."
_WAIT = "Wait; the message counts."

MEANINGS: Final[dict[Reason, tuple[str, str]]] = {
    Reason.ALL_WARM: ("Every wanted server is ready with all its Pinned models in memory.", _NOTHING),
    Reason.RESOLVED: ("Every model of the set is known to its registry.", _NOTHING),
    Reason.SUSPENDED: ("`spec.suspend` holds the servers at zero; caches are kept.", "Remove `suspend` to resume."),
    Reason.RESOLVING: ("Manifests are being looked up.", _WAIT),
    Reason.PULLING: ("Model files are being downloaded.", _WAIT),
    Reason.PLACING: ("A node is chosen and its cache filled before a pod takes a place.", _WAIT),
    Reason.STARTING: ("Pods are created or their containers start.", _WAIT),
    Reason.LOADING: ("Models are being loaded into memory and proved with a token.", _WAIT),
    Reason.ROLLING_OUT: ("New servers replace old ones.", _WAIT),
    Reason.SCALING: ("Servers are added or removed.", _WAIT),
    Reason.REGISTRY_UNREACHABLE: (
        "The registry does not answer or answers with errors; it is asked again.",
        "Check the registry, DNS, proxies and network policies.",
    ),
    Reason.UNSCHEDULABLE: (
        "No node takes the pod.",
        "Read the scheduler's text in the message; add nodes or relax `spec.placement` or `spec.hardware`.",
    ),
    Reason.DOES_NOT_FIT: (
        "The GPUs have too little memory for a model; what fits is served.",
        "The message has the numbers and the nearest change that would fit.",
    ),
    Reason.QUOTA_EXCEEDED: ("A ResourceQuota of the namespace is used up.", "Raise the quota or lower `replicas`."),
    Reason.IMAGE_PULL_FAILED: (
        "An image cannot be pulled.",
        "Check `spec.image` or `spec.version`, the operator's image repository and pull secrets.",
    ),
    Reason.CONTAINER_CRASHING: ("A container does not stay up.", "Read its log: `kubectl logs POD -c CONTAINER`."),
    Reason.LOAD_FAILED: (
        "Ollama cannot load a model; it is tried again.",
        "Read the message; lower `contextLength` or `parallel`, or give the server more memory.",
    ),
    Reason.MODEL_SET_MISSING: (
        "A ModelSet that the OllamaDeployment names does not exist.",
        "Create it or remove it from `spec.modelSets`.",
    ),
    Reason.MODEL_CONFLICT: (
        "Two ModelSets serve the same name with different content; the first one wins.",
        "Rename one of the models.",
    ),
    Reason.MODEL_NOT_FOUND: ("The registry does not know the model or tag.", "Correct `model` in the ModelSet."),
    Reason.INVALID_MANIFEST: (
        "The registry's answer is no manifest of an Ollama model.",
        "Check that the reference names an Ollama model.",
    ),
    Reason.DIGEST_MISMATCH: (
        "What the registry holds is not what the digest names.",
        "Correct `digest`, or pull the image of the model anew into the registry.",
    ),
    Reason.UNAUTHORIZED: ("The registry refuses the credentials.", "Check `source.pullSecretRef`."),
    Reason.SECRET_MISSING: ("A Secret is missing, lacks its key or may not be read.", "Do what the message says."),
    Reason.CLAIM_MISSING: (
        "The PersistentVolumeClaim of the cache does not exist.",
        "Create it or correct `storage.cache.claimName`.",
    ),
    Reason.UNSUPPORTED_VERSION: ("The Ollama version is older than supported.", "Choose a newer `spec.version`."),
    Reason.UNKNOWN_VARIABLE: (
        "The chosen Ollama version does not know a variable of `tuning.extraEnv`.",
        "Remove or correct the variable that the message names.",
    ),
    Reason.INVALID_SPEC: ("A field cannot work as it is.", "Correct the field that the message names."),
    Reason.POD_SECURITY_FORBIDDEN: (
        "The namespace's Pod Security level refuses the pods.",
        "Label the namespace as the message says, or choose another cache type.",
    ),
    Reason.DISK_FULL: (
        "The store has too little room for the models.",
        "Give the cache more room or serve fewer models.",
    ),
    Reason.RESIDENT: ("The models that must be in memory are, and each generated a token.", _NOTHING),
    Reason.NOT_RESIDENT: (
        "A pod that was ready lost a model or its Ollama restarted; it is loaded again.",
        "Wait; if it repeats, read the log of the pod's `ollama` container.",
    ),
    Reason.CONFIG_PENDING: ("The sidecar has not applied the newest configuration yet.", _WAIT),
    Reason.CPU_OFFLOAD: (
        "A part of a model is in system memory although it should be on the GPU.",
        "Give the server a larger GPU, or lower `contextLength` or `parallel`; the last ready server keeps serving.",
    ),
    Reason.CONTEXT_TOO_SMALL: (
        "A model was loaded with less context than is planned for it.",
        "Read the log of the pod's `sidecar` container; the last ready server keeps serving.",
    ),
    Reason.REPORT_STALE: (
        "The node's agent does not report, or not what the GPU driver says: nothing new is believed or taken down.",
        "Check the agent's pod on the node, that the DaemonSet is not kept off it, and the driver.",
    ),
    Reason.SIDECAR_UNREACHABLE: (
        "The sidecar does not answer the operator, or the agent of its node; the gate stays as it is.",
        "Check the pod, and network policies between them and the pod's admin port.",
    ),
    Reason.OBSERVED: ("The agent sees every GPU of its node.", _NOTHING),
    Reason.NO_GPU_FOUND: (
        "The node has no GPU, or no driver that shows it.",
        "Nothing on a CPU node; otherwise check the driver, and that the agent may use it.",
    ),
    Reason.GPU_UNHEALTHY: (
        "A GPU is lost, hangs, needs a reset or told a critical error.",
        "Read the message; reset the GPU or drain the node.",
    ),
    Reason.DRIVER_FAILED: (
        "The GPU driver does not answer, or does not fit its library.",
        "Wait if the driver is being upgraded; otherwise look at the node's kernel log.",
    ),
    Reason.PODS_KNOWN: ("GPUs and processes are attributed to pods.", _NOTHING),
    Reason.HOST_PID_OFF: (
        "The agent runs without `hostPID`: memory is known per GPU, not per process and pod.",
        "Install the agent with the preset that has it, or leave it so on exclusive GPUs.",
    ),
    Reason.KUBELET_UNREACHABLE: (
        "The kubelet does not tell the agent which pod holds which GPU.",
        "Check the mount of the kubelet's `pod-resources` directory; preset `minimal` has none.",
    ),
}
