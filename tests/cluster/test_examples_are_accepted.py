"""The real API server takes every example, under strict validation."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from testbed.controlplane import ControlPlane
from testbed.paths import ROOT

pytestmark = pytest.mark.cluster

FOLDERS = sorted(path.parent for path in (ROOT / "examples").rglob("fleet.yaml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=[path.name for path in FOLDERS])
def test_an_example_is_accepted(control_plane: ControlPlane, folder: Path) -> None:
    source = ["-k", str(folder)] if (folder / "kustomization.yaml").exists() else ["-f", str(folder / "fleet.yaml")]
    kubectl = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig)]
    # Objects of a namespace that only the same call makes cannot be tried without making it.
    for name in ("research", "support", "models"):
        subprocess.run([*kubectl, "create", "namespace", name], capture_output=True, check=False)
    command = [
        *kubectl,
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "--force-conflicts",
        *source,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "ollamadeployment" in done.stdout


def test_argo_cds_health_scripts_reach_the_config_map_whole(control_plane: ControlPlane) -> None:
    file = ROOT / "examples/gitops/argocd-cm.yaml"
    kubectl = ["kubectl", "--kubeconfig", str(control_plane.kubeconfig)]
    done = subprocess.run(
        [*kubectl, "create", "--dry-run=server", "-o", "json", "-f", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == yaml.safe_load(file.read_text())["data"]
