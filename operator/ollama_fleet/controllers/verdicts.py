"""From a plan and what is observed to one verdict on an OllamaDeployment. Pure.

The order of the checks is the order in which somebody would have to act: a wish that cannot be planned, pods that
cannot be made, pods that cannot start, pods that need time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ollama_fleet.api.progress import PullPhase, PullProgress
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.state import ModelPhase
from ollama_fleet.controllers import refusals
from ollama_fleet.controllers.conditions import Done, Stuck, Verdict, Working
from ollama_fleet.controllers.gates import DEMOTING
from ollama_fleet.controllers.observation import ObservedGroup, ObservedPod
from ollama_fleet.controllers.warmth import cold
from ollama_fleet.planning.plan import Plan

_MEASURED = DEMOTING | {Reason.REPORT_STALE, Reason.SIDECAR_UNREACHABLE}
"""Why policy VRAM keeps a gate closed."""
_STALLING_PULLS = frozenset({Reason.MODEL_NOT_FOUND, Reason.DIGEST_MISMATCH, Reason.UNAUTHORIZED})


def judge(plan: Plan, groups: Sequence[ObservedGroup], *, suspended: bool) -> Verdict:
    """What holds for the OllamaDeployment as a whole."""
    if plan.problems:
        verdict = _problem(plan, groups, suspended=suspended)
        # Servers that are held at zero show nothing.
        wanted = max(1, sum(group.wanted for group in groups))
    elif suspended:
        verdict, wanted = _suspended(groups), 0
    else:
        wanted = sum(group.replicas for group in plan.groups)
        verdict = _progress(plan, groups, wanted=wanted)
    ready = sum(group.ready for group in groups)
    if isinstance(verdict, Working) and ready >= wanted and not suspended:
        return replace(verdict, serving=True)
    return verdict


def _progress(plan: Plan, groups: Sequence[ObservedGroup], *, wanted: int) -> Verdict:
    ready = sum(group.ready for group in groups)
    settled = all(group.rolled_out for group in groups) and len(groups) == len(plan.groups)
    if settled and ready >= wanted and plan.left_out:
        more = f" (and {len(plan.left_out) - 1} more)" if len(plan.left_out) > 1 else ""
        first = plan.left_out[0]
        return Stuck(first.reason, f"{ready}/{wanted} servers ready; {first.message}{more}")
    if settled and ready >= wanted:
        return _newcomers(plan, groups, count=f"{ready}/{wanted} servers ready") or Done(
            Reason.ALL_WARM, f"{ready}/{wanted} servers ready with all their models in memory"
        )
    return next(_reasons(groups, ready=ready, wanted=wanted))


def _newcomers(plan: Plan, groups: Sequence[ObservedGroup], *, count: str) -> Working | None:
    """A model that joined running servers takes none of them out of service, but the wish is not fulfilled before."""
    configs = {group.name: group.config for group in plan.groups}
    for group in groups:
        for observed in group.pods:
            if observed.state is None or observed.pod.deleting or group.name not in configs:
                continue
            if observed.state.config_hash != configs[group.name].hash():
                return Working(Reason.CONFIG_PENDING, f"{count}; the newest configuration is on its way")
            for model in cold(observed.state, configs[group.name]):
                if model.phase is ModelPhase.FAILED:
                    message = f"{count}; {model.name} does not load: {model.message}"
                    return Working(Reason.LOAD_FAILED, message)
                return Working(Reason.LOADING, f"{count}; loading {model.name}")
    return None


def _problem(plan: Plan, groups: Sequence[ObservedGroup], *, suspended: bool) -> Verdict:
    problem = plan.problems[0]
    more = f" (and {len(plan.problems) - 1} more)" if len(plan.problems) > 1 else ""
    ready = sum(group.ready for group in groups)
    kept = f"; {ready} servers of the last plan keep serving" if ready and not suspended else ""
    message = f"{problem.message}{more}{kept}"
    if problem.terminal:
        return Stuck(problem.reason, message)
    return Working(problem.reason, message)


def _suspended(groups: Sequence[ObservedGroup]) -> Verdict:
    left = sum(len(group.pods) for group in groups)
    if left:
        return Working(Reason.SCALING, f"Suspending: {left} pods still end their streams")
    return Done(Reason.SUSPENDED, "Scaled to zero by spec.suspend; caches are kept")


def _reasons(groups: Sequence[ObservedGroup], *, ready: int, wanted: int) -> Iterator[Verdict]:
    count = f"{ready}/{wanted} servers ready"
    for group in groups:
        yield from _troubles(group, count)
    for group in groups:
        yield from _crowded(group, count)
    pods = [observed for group in groups for observed in group.pods if not observed.pod.deleting]
    for progress in (*(o.progress for o in pods), *(pull for group in groups for pull in group.pulls)):
        yield from _pulling(progress, count)
    for observed in pods:
        yield from _loading(observed, count)
    for observed in pods:
        yield from _withheld(observed, count)
    if any(not group.rolled_out for group in groups) and ready:
        yield Working(Reason.ROLLING_OUT, f"{count}; {sum(g.updated for g in groups)} updated")
    if any(observed.pod.scheduling_gated for observed in pods):
        yield Working(Reason.PLACING, f"{count}; choosing a node and filling its cache")
    if len(pods) > wanted:
        yield Working(Reason.SCALING, f"{count}; {len(pods) - wanted} pods to go")
    yield Working(Reason.STARTING, f"{count}; pods are starting")


def _troubles(group: ObservedGroup, count: str) -> Iterator[Verdict]:
    if group.failure:
        yield Stuck(
            refusals.reason(group.failure), f"{count}; pods cannot be made: {group.failure}{_remedy(group.failure)}"
        )
    for observed in group.pods:
        if observed.trouble is None or observed.pod.deleting:
            continue
        if observed.trouble.reason is Reason.UNSCHEDULABLE and group.one_by_one:
            # An old server is about to make room.
            continue
        yield Stuck(observed.trouble.reason, f"{count}; pod {observed.pod.name}: {observed.trouble.message}")


def _crowded(group: ObservedGroup, count: str) -> Iterator[Verdict]:
    """A new server that finds no room beside the old ones is no trouble of its own: one of them makes room."""
    if group.rolled_out or not group.one_by_one:
        return
    what = "no room for a new server beside the old ones: they are replaced one by one"
    yield Working(Reason.ROLLING_OUT, f"{count}, {group.updated} updated; {what}")


def _pulling(progress: PullProgress | None, count: str) -> Iterator[Verdict]:
    if progress is None:
        return
    for model in progress.models:
        if model.phase is PullPhase.RETRYING:
            reason = _reason(model.reason)
            message = f"{count}; {model.name}: {model.message}"
            yield Stuck(reason, message) if reason in _STALLING_PULLS else Working(reason, message)
    total = sum(model.total_bytes for model in progress.models)
    done = sum(model.completed_bytes for model in progress.models)
    if done < total:
        yield Working(Reason.PULLING, f"{count}; {_gigabytes(done)} of {_gigabytes(total)} downloaded")


def _reason(text: str) -> Reason:
    """A puller of another version may know other reasons."""
    try:
        return Reason(text)
    except ValueError:
        return Reason.PULLING


def _loading(observed: ObservedPod, count: str) -> Iterator[Verdict]:
    if observed.state is None or observed.state.ready:
        return
    for model in observed.state.models:
        if model.phase is ModelPhase.FAILED:
            yield Working(Reason.LOAD_FAILED, f"{count}; {model.name} does not load: {model.message}")
    loading = [model.name for model in observed.state.models if model.phase is not ModelPhase.WARM]
    if loading:
        yield Working(Reason.LOADING, f"{count}; loading {', '.join(loading[:3])}")


def _withheld(observed: ObservedPod, count: str) -> Iterator[Verdict]:
    """A pod whose models are loaded, and which the node's report keeps out of service."""
    pod = observed.pod
    if pod.gate == "False" and pod.gate_reason in _MEASURED and observed.state is not None:
        yield Working(Reason(pod.gate_reason), f"{count}; pod {pod.name}: {pod.gate_message}")


def _remedy(message: str) -> str:
    if refusals.reason(message) is Reason.POD_SECURITY_FORBIDDEN:
        return (
            "; label the namespace pod-security.kubernetes.io/enforce=privileged, which directories of a node need, "
            "or choose cache type Ephemeral"
        )
    return ""


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
