"""Argo CD, Flux and kstatus judge the fleet's resources alike, in every state of their lives."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml
from cel_expr_python import cel
from lupa import lua51

from testbed.paths import ROOT
from tests.support.kstatus import KStatus, compute
from tests.support.lifecycle import Living, Stage, everything

Json = Mapping[str, Any]

KINDS = ("OllamaDeployment", "ModelSet")
LIVES = everything()

KSTATUS = {
    Stage.CREATED: KStatus.IN_PROGRESS,
    Stage.CHANGED: KStatus.IN_PROGRESS,
    Stage.PROGRESSING: KStatus.IN_PROGRESS,
    Stage.SERVING: KStatus.IN_PROGRESS,
    Stage.STALLED: KStatus.FAILED,
    Stage.HEALTHY: KStatus.CURRENT,
    Stage.SUSPENDING: KStatus.IN_PROGRESS,
    Stage.SUSPENDED: KStatus.CURRENT,
    Stage.DELETED: KStatus.TERMINATING,
}
ARGO = {
    KStatus.IN_PROGRESS: "Progressing",
    KStatus.FAILED: "Degraded",
    KStatus.CURRENT: "Healthy",
    KStatus.TERMINATING: "Progressing",
}


def example(name: str) -> Any:
    return yaml.safe_load((ROOT / "examples/gitops" / name).read_text())


def in_lua(script: str) -> Callable[[Json], dict[str, str]]:
    """Run a script as Argo CD does: Lua 5.1, the object as ``obj``, no library that reaches outside."""
    lua = lua51.LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    lua.execute("os, io, package, require, debug, dofile, loadfile, loadstring, load = nil")
    function = lua.execute(f"return function(obj)\n{script}\nend")
    return lambda document: dict(function(lua.table_from(document, recursive=True)))


def in_cel(expression: str) -> Callable[[Json], bool]:
    """Evaluate an expression as Flux does: the object's fields are the variables."""
    fields = ("apiVersion", "kind", "metadata", "spec", "status")
    compiled = cel.NewEnv(variables=dict.fromkeys(fields, cel.Type.DYN)).compile(expression)

    def evaluate(document: Json) -> bool:
        value = compiled.eval(data=dict(document))
        assert value.type() == cel.Type.BOOL, value
        return value.plain_value() is True

    return evaluate


def test_the_states_are_all_there() -> None:
    found = {str(life) for life in LIVES}
    assert len(found) == len(LIVES) == 9 + 6
    assert {life.stage for life in LIVES} == set(Stage)


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_kstatus_reads_every_state(life: Living) -> None:
    assert compute(life.document) is KSTATUS[life.stage]


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_argo_cd_agrees_with_kstatus(life: Living) -> None:
    scripts = example("argocd-cm.yaml")["data"]
    health = in_lua(scripts[f"resource.customizations.health.ollamafleet.io_{life.document['kind']}"])(life.document)
    expected = "Suspended" if life.stage is Stage.SUSPENDED else ARGO[KSTATUS[life.stage]]
    assert health["status"] == expected
    conditions = {entry["type"]: entry for entry in life.document["status"].get("conditions", ())}
    if life.stage not in {Stage.CREATED, Stage.CHANGED, Stage.DELETED}:
        assert health["message"] == f"{conditions['Ready']['reason']}: {conditions['Ready']['message']}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}, {"observedGeneration": 1, "conditions": []}])
def test_argo_cd_waits_for_a_status_that_says_nothing(kind: str, status: Json | None) -> None:
    script = example("argocd-cm.yaml")["data"][f"resource.customizations.health.ollamafleet.io_{kind}"]
    document = {"metadata": {"generation": 1}, "spec": {}} | ({} if status is None else {"status": status})
    assert in_lua(script)(document)["status"] == "Progressing"


@pytest.mark.parametrize("life", [life for life in LIVES if life.stage is not Stage.DELETED], ids=str)
def test_flux_agrees_with_kstatus(life: Living) -> None:
    checks = {check["kind"]: check for check in example("flux.yaml")["spec"]["healthCheckExprs"]}
    check = checks[life.document["kind"]]
    assert check["apiVersion"] == life.document["apiVersion"]
    failed, current = in_cel(check["failed"])(life.document), in_cel(check["current"])(life.document)
    expected = KSTATUS[life.stage]
    assert (failed, current) == (expected is KStatus.FAILED, expected is KStatus.CURRENT)


def test_every_kind_that_is_synced_has_its_checks() -> None:
    scripts, checks = example("argocd-cm.yaml")["data"], example("flux.yaml")["spec"]["healthCheckExprs"]
    assert {name.rpartition("_")[2] for name in scripts} == {check["kind"] for check in checks} == set(KINDS)
    assert len(set(scripts.values())) == 1
