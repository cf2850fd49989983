"""The chart renders for every kind of values, the API server takes what it renders, and wrong values are refused."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from testbed.build import ensure
from testbed.controlplane import ControlPlane
from testbed.paths import ROOT

pytestmark = pytest.mark.cluster

CHART = ROOT / "charts/ollama-fleet"
NAMESPACE = "chart-test"
RELEASE = "fleet"
Values = Mapping[str, Any]

CASES: dict[str, Values] = {
    "defaults": {},
    "everything": {
        "image": {"repository": "registry.example/fleet", "digest": "sha256:" + "a" * 64, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "ollama": {"repository": "registry.example/ollama", "digests": {"0.32.3": "sha256:" + "b" * 64}},
        "operator": {
            "replicas": 3,
            "workers": 64,
            "logFormat": "text",
            "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "affinity": {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "preference": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}
                    ]
                }
            },
            "priorityClassName": "system-cluster-critical",
            "podAnnotations": {"example.com/number": "1", "example.com/true": "true"},
        },
        "rbac": {"readSecretsEverywhere": True},
    },
    "as-little-as-can-be": {
        "operator": {"replicas": 1, "resources": {}},
        "crds": {"enabled": False},
        "rbac": {"aggregate": False},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
    },
    "agents-as-ordinary-pods": {"agent": {"preset": "minimal"}},
    "agents-that-see-everything": {
        "agent": {
            "preset": "full",
            "kubeletDirectory": "/data/kubelet",
            "runtimeClassName": "nvidia",
            "nodeSelector": {"nvidia.com/gpu.present": "true"},
            "priorityClassName": "system-node-critical",
            "podAnnotations": {"prometheus.io/scrape": "true"},
        }
    },
}


@pytest.fixture(scope="module")
def helm() -> str:
    return str(ensure("helm") / "bin" / "helm")


def run(*command: str, given: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=120)


def rendered(helm: str, values: Values, *, release: str = RELEASE, **options: str) -> str:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [helm, "template", release, str(CHART), "--namespace", NAMESPACE, "--values", "-", *flags]
    done = run(*command, given=json.dumps(values))
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(manifest: str) -> list[tuple[str, str]]:
    return [(found["kind"], found["metadata"]["name"]) for found in yaml.safe_load_all(manifest) if found]


@pytest.fixture(scope="module")
def kubectl(control_plane: ControlPlane) -> list[str]:
    """With a namespace that warns of everything that the restricted Pod Security forbids.

    The agents' own namespace is there too: a dry run makes none, and would then miss it for what goes into it.
    """
    command = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig)]
    levels = {NAMESPACE: {"pod-security.kubernetes.io/warn": "restricted"}, f"{RELEASE}-ollama-fleet-agent": {}}
    for name, labels in levels.items():
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        done = run(*command, "apply", "--server-side", "-f", "-", given=json.dumps(namespace))
        assert done.returncode == 0, done.stderr
    return command


@pytest.mark.parametrize("values", CASES.values(), ids=list(CASES))
def test_the_linter_has_nothing_to_say(helm: str, values: Values, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    done = run(helm, "lint", "--strict", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("values", CASES.values(), ids=list(CASES))
def test_the_api_server_takes_everything(helm: str, kubectl: list[str], values: Values) -> None:
    manifest = rendered(helm, values)
    apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts", "-f", "-"]
    done = run(*kubectl, *apply, given=manifest)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(objects(manifest))


def test_what_is_switched_off_is_not_rendered(helm: str) -> None:
    kinds = {case: {kind for kind, _ in objects(rendered(helm, values))} for case, values in CASES.items()}
    assert kinds["defaults"] - kinds["as-little-as-can-be"] == {
        "CustomResourceDefinition",
        "NetworkPolicy",
        "PodDisruptionBudget",
    }
    assert kinds["defaults"] == kinds["everything"]


PRESETS = {
    "minimal": (None, False, NAMESPACE, []),
    "standard": (0, False, f"{RELEASE}-ollama-fleet-agent", ["/var/lib/kubelet/pod-resources"]),
    "full": (0, True, f"{RELEASE}-ollama-fleet-agent", ["/var/lib/kubelet/pod-resources"]),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_an_agent_has_what_its_preset_needs_and_no_more(helm: str, preset: str) -> None:
    user, host, namespace, mounts = PRESETS[preset]
    found = [one for one in yaml.safe_load_all(rendered(helm, {"agent": {"preset": preset}})) if one]
    (agent,) = (one for one in found if one["kind"] == "DaemonSet")
    spec, (container,) = agent["spec"]["template"]["spec"], agent["spec"]["template"]["spec"]["containers"]
    assert agent["metadata"]["namespace"] == namespace
    assert spec["securityContext"].get("runAsUser") == (65532 if user is None else user)
    assert spec.get("hostPID", False) is host
    assert [one["hostPath"]["path"] for one in spec.get("volumes", [])] == mounts
    assert all(mount["readOnly"] for mount in container.get("volumeMounts", []))
    assert not spec.get("hostNetwork")
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    privileged = [
        one["metadata"]["name"]
        for one in found
        if one["kind"] == "Namespace"
        and one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    ]
    assert privileged == ([] if preset == "minimal" else [namespace])


def test_secrets_are_read_everywhere_only_if_asked_for(helm: str) -> None:
    bindings = {
        case: {name for kind, name in objects(rendered(helm, values)) if kind == "ClusterRoleBinding"}
        for case, values in CASES.items()
    }
    assert bindings["everything"] - bindings["defaults"] == {"fleet-ollama-fleet-pull-secrets"}
    assert bindings["defaults"] == {"fleet-ollama-fleet", "fleet-ollama-fleet-agent"}


def test_people_may_scale_and_whoever_sees_the_cluster_sees_reports(helm: str) -> None:
    """``kubectl scale`` reads the subresource before it writes it."""
    roles = [one for one in yaml.safe_load_all(rendered(helm, {})) if one and one["kind"] == "ClusterRole"]
    given = {
        (label.rpartition("-")[2], resource, verb)
        for role in roles
        for label in role["metadata"]["labels"]
        if label.startswith("rbac.authorization.k8s.io/aggregate-to-")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    for role in ("edit", "admin"):
        assert {(role, "ollamadeployments/scale", verb) for verb in ("get", "update", "patch")} <= given
    assert {("view", "nodevramreports", verb) for verb in ("get", "list", "watch")} <= given


def test_an_operator_without_agents_lets_no_other_namespace_in(helm: str) -> None:
    def arguments(*, enabled: bool) -> list[str]:
        found = yaml.safe_load_all(rendered(helm, {"agent": {"enabled": enabled}}))
        (operator,) = (one for one in found if one and one["kind"] == "Deployment")
        (container,) = operator["spec"]["template"]["spec"]["containers"]
        return [argument for argument in container["args"] if argument.startswith(("--fleet-namespaces", "--agents"))]

    assert arguments(enabled=True) == ["--fleet-namespaces=fleet-ollama-fleet-agent", "--agents"]
    assert arguments(enabled=False) == []


def test_names_of_two_releases_do_not_meet_and_stay_short(helm: str) -> None:
    one, other, longest = (
        set(objects(rendered(helm, {"crds": {"enabled": False}}, release=release)))
        for release in ("one", "other", "x" * 53)
    )
    assert not one & other
    assert all(len(name) <= 63 for _, name in longest)


def test_definitions_stay_when_the_chart_goes(helm: str) -> None:
    definitions = [
        found
        for found in yaml.safe_load_all(rendered(helm, {}))
        if found and found["kind"] == "CustomResourceDefinition"
    ]
    assert len(definitions) == 3
    for definition in definitions:
        assert definition["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


@pytest.mark.parametrize(
    ("wrong", "where", "what"),
    [
        ({"operator": {"replicas": 0}}, "/operator/replicas", "minimum: got 0, want 1"),
        ({"operator": {"replicas": "2"}}, "/operator/replicas", "got string, want integer"),
        ({"operator": {"logFormat": "xml"}}, "/operator/logFormat", "must be one of 'json', 'text'"),
        ({"operator": {"worker": 8}}, "/operator", "additional properties 'worker' not allowed"),
        ({"image": {"digest": "latest"}}, "/image/digest", "does not match pattern"),
        ({"image": {"repository": ""}}, "/image/repository", "minLength: got 0, want 1"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy", "must be one of"),
        ({"imagePullSecrets": ["pull"]}, "/imagePullSecrets/0", "got string, want object"),
        ({"networkPolicy": {"enabled": "yes"}}, "/networkPolicy/enabled", "got string, want boolean"),
        ({"nonsense": {}}, "''", "additional properties 'nonsense' not allowed"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: str, wrong: Values, where: str, what: str) -> None:
    done = run(helm, "template", "fleet", str(CHART), "--values", "-", given=json.dumps(wrong))
    assert done.returncode != 0
    assert where in done.stderr
    assert what in done.stderr


def test_an_old_kubernetes_is_refused(helm: str) -> None:
    done = run(helm, "template", "fleet", str(CHART), "--kube-version", "1.32.0")
    assert done.returncode != 0
    assert "requires kubeVersion: >=1.33.0-0" in done.stderr


def test_the_schema_knows_every_value_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def known(schema: Values) -> Any:
        fields = schema.get("properties")
        return {name: known(field) for name, field in fields.items()} if fields else None

    def given(value: Any, schema: Any) -> Any:
        return {name: given(inner, schema.get(name)) for name, inner in value.items()} if schema else None

    expected = known(schema)
    # For charts that have this one as a part.
    del expected["global"]
    assert given(values, expected) == expected
