"""From the ModelSets of a deployment to the models that its servers must hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from ollama_fleet.api.group import GroupModel, Modelfile
from ollama_fleet.api.modelset import ModelfileSpec, ModelSpec, ResolvedModel, SourceSpec
from ollama_fleet.api.ollamadeployment import Profile, TuningSpec
from ollama_fleet.api.reasons import Reason
from ollama_fleet.api.references import InvalidReference, parse_reference
from ollama_fleet.planning.answers import answers
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.profiles import PROFILES
from ollama_fleet.planning.request import ModelSetView, PlanRequest
from ollama_fleet.planning.running import Want


@dataclass(slots=True)
class Collected:
    """Models by served name, and what kept others out."""

    wants: dict[str, Want] = field(default_factory=dict)
    """By served name (lower case)."""
    owners: dict[str, str] = field(default_factory=dict)
    """Served name (lower case) to the ModelSet that brought it."""
    conflicts: list[Problem] = field(default_factory=list)
    """Entries that lose to one of the same name in an earlier ModelSet."""
    problems: list[Problem] = field(default_factory=list)


def collect(request: PlanRequest) -> Collected:
    """All models in the order in which the ModelSets are named."""
    found = Collected()
    for name, view in request.model_sets.items():
        if view is None:
            found.problems.append(
                Problem(
                    Reason.MODEL_SET_MISSING,
                    f"ModelSet {name} does not exist in namespace {request.namespace}: "
                    "create it or remove it from spec.modelSets",
                )
            )
            continue
        if isinstance(view, Problem):
            found.problems.append(view)
            continue
        for spec in view.spec.models:
            _add(found, request, view, spec)
    return found


def _add(found: Collected, request: PlanRequest, view: ModelSetView, spec: ModelSpec) -> None:
    resolved = next((model for model in view.status.models if model.name == spec.name), None)
    problems = list(_unresolved(view, spec, resolved))
    if problems or resolved is None or resolved.digest is None:
        found.problems += problems
        return
    profile, tuning = request.spec.profile or "chat", request.spec.tuning or TuningSpec()
    model = _model(view, spec, resolved, profile, tuning)
    asked = spec.parallel or tuning.num_parallel
    want = Want(model, 0 if asked is None and PROFILES[profile].as_many_as_fit else model.parallel)
    key = served_key(spec.name)
    if key not in found.wants:
        found.wants[key], found.owners[key] = want, view.name
    elif found.wants[key] != want:
        found.conflicts.append(
            Problem(
                Reason.MODEL_CONFLICT,
                f"ModelSets {found.owners[key]} and {view.name} both serve {spec.name} with different content, that of "
                f"{found.owners[key]} is served: rename one of the models",
            )
        )


def _unresolved(view: ModelSetView, spec: ModelSpec, resolved: ResolvedModel | None) -> Iterator[Problem]:
    stale = view.status.observed_generation != view.generation
    if resolved is None or (stale and not _answered(view, spec, resolved)):
        yield Problem(Reason.RESOLVING, f"ModelSet {view.name}: {spec.name} is being looked up", terminal=False)
    elif not resolved.ready:
        reason = Reason(resolved.reason)
        yield Problem(
            reason,
            f"ModelSet {view.name}: {spec.name}: {resolved.message}",
            terminal=reason is not Reason.REGISTRY_UNREACHABLE,
        )


def _answered(view: ModelSetView, spec: ModelSpec, resolved: ResolvedModel) -> bool:
    """Whether what is known belongs to the newest spec: half of an edit would restart servers once too often."""
    try:
        return answers(resolved, view.spec, spec)
    except InvalidReference:
        return False


def _model(
    view: ModelSetView, spec: ModelSpec, resolved: ResolvedModel, profile: Profile, tuning: TuningSpec
) -> GroupModel:
    reference = parse_reference(resolved.reference)
    source = view.spec.source or SourceSpec()
    defaults = PROFILES[profile]
    return GroupModel(
        name=spec.name,
        registry=reference.host,
        repository=reference.repository,
        tag=reference.tag,
        manifest_digest=resolved.digest or "",
        weights=resolved.weights,
        insecure=bool(source.insecure),
        pull_secret=source.pull_secret_ref.name if source.pull_secret_ref else None,
        ca_secret=source.ca_secret_ref.name if source.ca_secret_ref else None,
        size=resolved.size,
        context_length=spec.context_length or tuning.context_length or defaults.context_length,
        parallel=spec.parallel or tuning.num_parallel or defaults.parallel,
        residency=spec.residency or "Pinned",
        priority=spec.priority or 0,
        keep_alive=spec.keep_alive or tuning.keep_alive,
        modelfile=_modelfile(spec.modelfile, adapter=resolved.adapter or None),
    )


def _modelfile(spec: ModelfileSpec | None, *, adapter: str | None) -> Modelfile:
    if spec is None:
        return Modelfile()
    return Modelfile(parameters=spec.parameters or {}, system=spec.system, template=spec.template, adapter=adapter)


def served_key(name: str) -> str:
    """What two served names share when Ollama takes them for the same one: case and ``:latest`` do not count."""
    try:
        return "/".join(parse_reference(name).key)
    except InvalidReference:
        return name.lower()
