"""The demo's cluster from kind, where Docker runs: images and model from their normal registries."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from testbed.build import ensure
from testbed.demo.cluster import DemoCluster
from testbed.paths import ROOT, STATE
from testbed.say import step

DESCRIPTION: Final = "kind (Docker and kind were found)"

_NAME: Final = "ollama-fleet"
_IMAGE: Final = "localhost/ollama-fleet:demo"
_MODEL: Final = "smollm2:135m"


def usable() -> bool:
    """Whether kind is installed and a Docker engine answers."""
    if not shutil.which("kind") or not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def up(ollama_version: str) -> DemoCluster:
    """Create the cluster if it is not there, and load the product's image into it."""
    STATE.mkdir(parents=True, exist_ok=True)
    kubeconfig = STATE / "kind.kubeconfig"
    with step("product image"):
        _run("docker", "build", "--tag", _IMAGE, str(ROOT))
    if _NAME not in _output("kind", "get", "clusters").split():
        with step("kind cluster"):
            _run("kind", "create", "cluster", "--config", str(ROOT / "kind-config.yaml"), "--wait", "5m")
    kubeconfig.write_text(_output("kind", "get", "kubeconfig", "--name", _NAME))
    with step("loading the image"):
        _run("kind", "load", "docker-image", _IMAGE, "--name", _NAME)
    found = shutil.which("helm")
    return DemoCluster(
        kubeconfig=kubeconfig,
        helm=Path(found) if found else ensure("helm") / "bin" / "helm",
        fleet_image=_IMAGE,
        ollama_repository="ollama/ollama",
        ollama_version=ollama_version,
        registry="",
        model=_MODEL,
        gpus=None,
    )


def down() -> None:
    """Delete the cluster."""
    _run("kind", "delete", "cluster", "--name", _NAME)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
