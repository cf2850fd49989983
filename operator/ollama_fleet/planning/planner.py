"""From a wish to a plan."""

from collections.abc import Iterator

from ollama_fleet.api.deploymentstatus import EffectiveValue
from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.ollamadeployment import (
    OllamaDeploymentSpec,
    PlacementSpec,
    ReadinessPolicy,
    ReadinessSpec,
    StorageSpec,
    TuningSpec,
)
from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning import claims, environment
from ollama_fleet.planning.environment import Setting
from ollama_fleet.planning.fitting import Fitted, Fitting, Wish, fit, unchanged, unsized
from ollama_fleet.planning.footprints import Options, server_shape
from ollama_fleet.planning.models import collect
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.problems import Problem
from ollama_fleet.planning.quantities import seconds
from ollama_fleet.planning.remedies import explain
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.planning.variables import objection
from ollama_fleet.planning.versions import DEFAULT, FLOOR, Version
from ollama_fleet.sizing.estimate import MIB
from ollama_fleet.sizing.portable import from_document
from ollama_fleet.sizing.shape import ModelShape


def plan_deployment(request: PlanRequest) -> Plan:
    """The plan for one OllamaDeployment. Deterministic: the same request gives the same plan."""
    spec = request.spec
    version = Version.parse(spec.version) if spec.version else DEFAULT
    image = spec.image or request.policy.image(version)
    collected = collect(request)
    problems = (*_objections(spec, version), *collected.problems)
    if problems:
        return Plan(version=str(version), image=image, problems=problems)
    fitting, left_out = _fit(request, tuple(collected.models.values()), version)
    running = {model.name for group in request.previous for model in group.config.models}
    if not fitting.groups or running & {left.item.name for left in fitting.left_out}:
        # A wish with which a running model would lose its place changes nothing.
        return Plan(version=str(version), image=image, problems=left_out)
    groups = tuple(
        _group(request, version=version, image=image, name=name, fitted=fitted)
        for name, fitted in fitting.groups.items()
    )
    problems = tuple(claims.objections(request, groups=len(groups)))
    if problems:
        return Plan(version=str(version), image=image, problems=problems)
    effective = tuple(_effective(request, version, groups))
    return Plan(version=str(version), image=image, groups=groups, left_out=left_out, effective=effective)


def _fit(request: PlanRequest, models: tuple[GroupModel, ...], version: Version) -> tuple[Fitting, tuple[Problem, ...]]:
    """Groups and slots, and the models for which there is no room with the nearest remedy."""
    tuning, inventory, gpu = request.spec.tuning or TuningSpec(), request.inventory, request.spec.hardware.gpu
    options = Options.of(
        tuning,
        version=version,
        gpus=inventory.gpus if inventory else gpu.count if gpu else 0,
        product=inventory.product if inventory else "",
        measured=request.measured,
    )
    wish = Wish(models, shapes(request), options, tuning.num_parallel)
    kept = unchanged(wish, request.previous)
    if kept is not None:
        return kept, ()
    if inventory is None:
        return unsized(wish, request.previous), ()
    server = server_shape(inventory, tuning, version=version)
    servers = max(len(request.previous), inventory.servers // max(1, _replicas(request.spec)), 1)
    found = fit(wish, server, request.previous, servers=servers)
    problems = tuple(
        Problem(Reason.DOES_NOT_FIT, explain(left, wish, server, request.previous, servers=servers))
        for left in found.left_out
    )
    return found, problems


def shapes(request: PlanRequest) -> dict[str, ModelShape]:
    """The models whose headers are known, by served name."""
    resolved = (model for view in request.model_sets.values() if view for model in view.status.models)
    return {model.name: from_document(model.header) for model in resolved if model.header}


def _replicas(spec: OllamaDeploymentSpec) -> int:
    return 1 if spec.replicas is None else spec.replicas


def _objections(spec: OllamaDeploymentSpec, version: Version) -> Iterator[Problem]:
    if version < FLOOR:
        yield Problem(
            Reason.UNSUPPORTED_VERSION,
            f"spec.version {version} is older than {FLOOR}, the oldest supported: choose a newer one",
        )
    tuning = spec.tuning or TuningSpec()
    for variable in tuning.extra_env or ():
        found = objection(variable.name, version)
        if found:
            yield Problem(Reason.UNKNOWN_VARIABLE, f"spec.tuning.extraEnv: {found}")


def _group(request: PlanRequest, *, version: Version, image: str, name: str, fitted: Fitted) -> Group:
    spec, models = request.spec, fitted.models
    readiness = spec.readiness or ReadinessSpec()
    config = GroupConfig(
        namespace=request.namespace,
        deployment=request.name,
        group=name,
        ollama_version=str(version),
        models=models,
        num_parallel=fitted.parallel,
        sized_for=fitted.key,
        load_timeout_seconds=int(seconds(readiness.timeout)) if readiness.timeout else 600,
    )
    return Group(
        name=name,
        config=config,
        environment=environment.build(
            version=version,
            profile=spec.profile or "chat",
            tuning=spec.tuning or TuningSpec(),
            hardware=spec.hardware,
            models=models,
            parallel=fitted.parallel,
        ),
        image=image,
        image_choice=spec.image or request.policy.tagged(version),
        fleet_image=request.policy.fleet_image,
        replicas=0 if spec.suspend else _replicas(spec),
        hardware=spec.hardware,
        storage=spec.storage or StorageSpec(),
        placement=spec.placement or PlacementSpec(),
        readiness_policy=readiness_policy(spec),
        fleet_namespaces=tuple(sorted(request.fleet_namespaces)),
        planned=fitted.planned,
        surge=not claims.single_node(request.claim)
        and not any(group.crowded for group in request.previous if group.name == name),
    )


def readiness_policy(spec: OllamaDeploymentSpec) -> ReadinessPolicy:
    """When a server counts as ready: as the spec says, else by its hardware."""
    if spec.readiness and spec.readiness.policy:
        return spec.readiness.policy
    return "Resident" if spec.hardware.gpu is None else "VRAM"


def _effective(request: PlanRequest, version: Version, groups: tuple[Group, ...]) -> Iterator[EffectiveValue]:
    """What people see in the status: the environment of the first group, and the choices beside it."""
    spec = request.spec
    yield _value("version", str(version), explicit=spec.version is not None, reason="newest tested version")
    if spec.image is None and str(version) not in request.policy.digests:
        reason = (
            "no digest is known for this version, so nodes resolve the tag: see groups[].imageIDs, or set spec.image"
        )
        yield _value("image", request.policy.image(version), explicit=False, reason=reason)
    yield _value("profile", spec.profile or "chat", explicit=spec.profile is not None)
    yield _value("replicas", str(groups[0].replicas if groups else 0), explicit=spec.replicas is not None)
    explicit = spec.readiness is not None and spec.readiness.policy is not None
    if spec.hardware.gpu is not None:
        found = request.inventory
        value = f"{found.usable // MIB} MiB" if found else "unknown"
        reason = found.source if found else "no node with the labels of GPU feature discovery: nothing is sized"
        yield EffectiveValue(name="gpuMemory", value=value, source="computed", reason=reason)
    yield _value("readinessPolicy", readiness_policy(spec), explicit=explicit, reason="by hardware")
    for setting in groups[0].environment if groups else ():
        yield _setting(setting)


def _value(name: str, value: str, *, explicit: bool, reason: str = "") -> EffectiveValue:
    if explicit:
        return EffectiveValue(name=name, value=value, source="spec")
    return EffectiveValue(name=name, value=value, source="default", reason=reason)


def _setting(setting: Setting) -> EffectiveValue:
    return EffectiveValue(name=setting.name, value=setting.value, source=setting.source, reason=setting.reason)
