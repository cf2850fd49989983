"""The status of a fleet as a tree: deployments, their groups and pods, their models, and why not. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from ollama_fleet.api import names
from ollama_fleet.api.reasons import MEANINGS, Reason

Object = Mapping[str, Any]

_MARKS: Final = {"True": "✓", "False": "✗"}
_BRANCH, _LAST, _PIPE, _GAP = "├─ ", "└─ ", "│  ", "   "
Node = tuple[str, list["Node"]]


def is_ready(deployment: Object) -> bool:
    """Whether a deployment is Ready and has nothing left to do, by a status that speaks of its spec."""
    return (
        not _out_of_date(deployment)
        and _condition(deployment, "Ready").get("status") == "True"
        and _condition(deployment, "Reconciling").get("status") != "True"
    )


def render(deployments: Iterable[Object], pods: Iterable[Object]) -> Iterator[str]:
    """Lines of text; empty for an empty fleet."""
    by_owner: dict[tuple[str, str], list[Object]] = {}
    for pod in pods:
        metadata = pod["metadata"]
        owner = metadata.get("labels", {}).get(names.LABEL_DEPLOYMENT, "")
        by_owner.setdefault((metadata["namespace"], owner), []).append(pod)
    for deployment in sorted(deployments, key=_identity):
        text, children = _deployment(deployment, by_owner.get(_identity(deployment), []))
        yield text
        yield from _lines(children, "")


def _deployment(deployment: Object, pods: list[Object]) -> Node:
    namespace, name = _identity(deployment)
    status, ready = deployment.get("status", {}), _condition(deployment, "Ready")
    old = _out_of_date(deployment)
    mark = "?" if old else _MARKS.get(ready.get("status", ""), "?")
    head = f"{mark} {namespace}/{name}  {ready.get('reason', 'Unknown')}"
    figures = [
        f"servers {status.get('ready', '-')}",
        f"warm {status.get('warm', '-')}",
        f"vram {status['vram']}" if status.get("vram") else "",
        status.get("version", ""),
    ]
    children: list[Node] = []
    if old:
        children.append((f"why: {old}", []))
    elif not is_ready(deployment):
        children += [(line, []) for line in _why(ready)]
    for group in status.get("groups", ()):
        children.append(_group(group, status, pods))
    return f"{head}  {'  '.join(figure for figure in figures if figure)}", children


def _out_of_date(deployment: Object) -> str:
    """Why the status says nothing of what was asked for last; empty where it does."""
    metadata = deployment["metadata"]
    if metadata.get("deletionTimestamp"):
        return "it is being deleted"
    wished, seen = metadata.get("generation"), deployment.get("status", {}).get("observedGeneration")
    if wished is not None and seen != wished:
        return "the operator has not read the last change yet: see that it runs"
    return ""


def _why(ready: Object) -> Iterator[str]:
    if ready.get("message"):
        yield f"why: {ready['message']}"
    step = _next_step(ready.get("reason", ""))
    if step:
        yield f"next: {step}"


def _next_step(reason: str) -> str:
    try:
        return MEANINGS[Reason(reason)][1]
    except (KeyError, ValueError):
        return ""


def _group(group: Object, status: Object, pods: list[Object]) -> Node:
    text = (
        f"group {group['name']}  {group.get('ready', 0)}/{group.get('replicas', 0)} ready  {group.get('endpoint', '')}"
    )
    models = [_model(model) for model in status.get("models", ()) if model.get("group") == group["name"]]
    servers = [
        _pod(pod)
        for pod in sorted(pods, key=_identity)
        if pod["metadata"].get("labels", {}).get(names.LABEL_GROUP) == group["name"]
    ]
    return text, models + servers


def _model(model: Object) -> Node:
    parts = [f"model {model['name']}", model.get("state") or "-"]
    if model.get("memory"):
        parts.append(_bytes(model["memory"]))
    download = model.get("download")
    if download and download.get("percent", 100) < 100:
        parts.append(f"{download['percent']} % of {_bytes(download['totalBytes'])}")
    if model.get("message"):
        parts.append(model["message"])
    return "  ".join(parts), []


def _pod(pod: Object) -> Node:
    status = pod.get("status", {})
    conditions = {entry["type"]: entry for entry in status.get("conditions", ())}
    gate = conditions.get(names.READINESS_GATE, {})
    ready = conditions.get("Ready", {}).get("status") == "True"
    parts = [f"pod {pod['metadata']['name']}", "Ready" if ready else status.get("phase", "Unknown")]
    node = pod.get("spec", {}).get("nodeName")
    if node:
        parts.append(f"on {node}")
    if not ready and gate.get("message"):
        parts.append(f"{gate.get('reason', '')}: {gate['message']}")
    return "  ".join(parts), []


def _lines(children: list[Node], indent: str) -> Iterator[str]:
    for index, (text, below) in enumerate(children):
        last = index == len(children) - 1
        yield f"{indent}{_LAST if last else _BRANCH}{text}"
        yield from _lines(below, indent + (_GAP if last else _PIPE))


def _condition(deployment: Object, kind: str) -> Object:
    conditions = deployment.get("status", {}).get("conditions", ())
    return next((entry for entry in conditions if entry["type"] == kind), {})


def _identity(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
