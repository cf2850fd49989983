"""Values in force and where each came from, as the status shows them."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ollama_fleet.api.deploymentstatus import MOST_EFFECTIVE, EffectiveValue
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.planning.environment import Setting, Source
from ollama_fleet.planning.groups import Common, readiness_policy
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.quantities import quantity
from ollama_fleet.sizing.estimate import MIB

_NOT_SIZED: Final = "no node with the labels of GPU feature discovery or a report: nothing is sized"


def effective(common: Common, groups: Sequence[Group]) -> tuple[EffectiveValue, ...]:
    """The choices for all servers, then what each group's servers run with: one entry per value that occurs."""
    return (*_choices(common, groups), *_by_group(groups))[:MOST_EFFECTIVE]


def _choices(common: Common, groups: Sequence[Group]) -> Iterator[EffectiveValue]:
    request, spec = common.request, common.request.spec
    yield _value("version", str(common.version), explicit=spec.version is not None, reason="newest tested version")
    if spec.image is None and str(common.version) not in request.policy.digests:
        reason = (
            "no digest is known for this version, so nodes resolve the tag: see groups[].imageIDs, or set spec.image"
        )
        yield _value("image", request.policy.image(common.version), explicit=False, reason=reason)
    yield _value("profile", spec.profile or "chat", explicit=spec.profile is not None)
    yield _value("replicas", str(groups[0].replicas if groups else 0), explicit=spec.replicas is not None)
    explicit = spec.readiness is not None and spec.readiness.policy is not None
    yield _value("readinessPolicy", readiness_policy(spec), explicit=explicit, reason="by hardware")
    if "hardware" not in spec.model_fields_set:
        yield _value("hardware", _hardware(spec), explicit=False, reason="profile embedding runs on cores")


def _hardware(spec: OllamaDeploymentSpec) -> str:
    cpu = spec.hardware.cpu
    return f"{cpu.cores} cores, {cpu.memory}" if cpu else ""


def _by_group(groups: Sequence[Group]) -> Iterator[EffectiveValue]:
    """Values that all groups share stand without names of groups; the reason is that of the first."""
    found: dict[str, dict[tuple[str, Source], tuple[str, list[str]]]] = {}
    for group in groups:
        for setting in _of(group):
            known = found.setdefault(setting.name, {})
            _, names = known.setdefault((setting.value, setting.source), (setting.reason, []))
            names.append(group.name)
    for name, values in found.items():
        for (value, source), (reason, names) in values.items():
            everywhere = len(names) == len(groups)
            held = [] if everywhere else names
            yield EffectiveValue(name=name, value=value, source=source, reason=reason, groups=held)


def _of(group: Group) -> Iterable[Setting]:
    if group.hardware.gpu is not None:
        record = group.record
        value = f"{record.usable // MIB} MiB" if record.usable else "unknown"
        yield _computed("gpuMemory", value, record.usable_reason or _NOT_SIZED)
    if group.memory.request:
        value = f"{quantity(group.memory.request)}, limit {quantity(group.memory.limit)}"
        yield _computed("hostMemory", value, group.memory.reason)
    yield from group.environment


def _computed(name: str, value: str, reason: str) -> Setting:
    return Setting(name, value, "spec" if reason.startswith("spec.") else "computed", reason)


def _value(name: str, value: str, *, explicit: bool, reason: str = "") -> EffectiveValue:
    if explicit:
        return EffectiveValue(name=name, value=value, source="spec")
    return EffectiveValue(name=name, value=value, source="default", reason=reason)
