"""The demo's cluster from kind, where Docker runs: images and model from their normal registries."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from testbed.build import ensure
from testbed.demo.cluster import DemoCluster
from testbed.demo.kubectl import run
from testbed.paths import ROOT, STATE
from testbed.say import say, step

DESCRIPTION: Final = "kind (Docker and kind were found)"

_NAME: Final = "ollama-fleet-demo"
"""Of the cluster, as ``kind-config.yaml`` has it: what goes by this name is made anew when it does not answer."""
_REPOSITORY: Final = "localhost/ollama-fleet-demo"
_MODEL: Final = "smollm2:135m"
_KUBECONFIG: Final = STATE / "kind.kubeconfig"
"""There from before the cluster is made until it is removed, so that ``down`` knows of it without Docker too."""
_ENGINE_SECONDS: Final = 20
_ANSWER_SECONDS: Final = 60
"""A cluster comes back within this after its machine was started."""


def missing() -> str:
    """Why kind cannot be used here, in words that follow a colon; empty where it can."""
    for program in ("kind", "docker"):
        if not shutil.which(program):
            return f"{program} is not installed"
    try:
        asked = subprocess.run(
            ["docker", "version"], capture_output=True, text=True, check=False, timeout=_ENGINE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"kind is installed, but Docker does not answer within {_ENGINE_SECONDS} s"
    if asked.returncode:
        return f"kind is installed, but Docker does not answer: {_last_line(asked.stderr)}"
    return ""


def up(ollama_version: str) -> DemoCluster:
    """Create the cluster if there is none that answers, and load the product's image into it. Raises RuntimeError."""
    helm = _helm()
    STATE.mkdir(parents=True, exist_ok=True)
    with step("product image"):
        image = _build()
    _ensure_cluster()
    with step("loading the image"):
        _show("kind", "load", "docker-image", image, "--name", _NAME)
    return DemoCluster(
        kubeconfig=_KUBECONFIG,
        helm=helm,
        fleet_image=image,
        ollama_repository="ollama/ollama",
        ollama_version=ollama_version,
        registry="",
        model=_MODEL,
        gpus=None,
    )


def down() -> None:
    """Delete the cluster and the images that were built for it. Raises RuntimeError where that cannot be done now."""
    why = missing()
    if why:
        if _KUBECONFIG.exists():
            raise RuntimeError(f"the cluster in Docker stays, for make down to remove it later: {why}")
        return
    # Also without a kubeconfig: it may have been lost, and kind takes a cluster that is not there.
    with step("removing the kind cluster and the product's images"):
        _delete_cluster()
        images = run(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", _REPOSITORY]).split()
        if images:
            run(["docker", "image", "rm", *images])
    _KUBECONFIG.unlink(missing_ok=True)


def _helm() -> Path:
    """Before anything is made: compiling it takes Go."""
    found = shutil.which("helm")
    if not found and not shutil.which("go"):
        raise RuntimeError("neither helm nor Go to compile it is installed: see https://helm.sh/docs/intro/install/")
    return Path(found) if found else ensure("helm") / "bin" / "helm"


def _build() -> str:
    """The image's name, whose tag is of its content: pods are replaced when it is another one, and only then."""
    latest = f"{_REPOSITORY}:latest"
    # With attestations the image would be another one each time, and of a form that kind cannot load from every Docker.
    _show("docker", "build", "--tag", latest, str(ROOT), env={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})
    # Asked of the engine: what the build reports is not in every Docker the name that it goes by.
    found = run(["docker", "image", "inspect", "--format", "{{.Id}}", latest]).strip()
    name = f"{_REPOSITORY}:{found.removeprefix('sha256:')[:12]}"
    run(["docker", "tag", latest, name])
    return name


def _ensure_cluster() -> None:
    if _NAME in run(["kind", "get", "clusters"]).split():
        with step("the cluster of an earlier run"):
            usable = _finished() and _answers()
        if usable:
            return
        say("  it is unfinished or does not answer, and is made anew")
        _delete_cluster()
    # It will hold the rights of an administrator, and other users of the machine can look into its directory.
    _KUBECONFIG.unlink(missing_ok=True)
    _KUBECONFIG.touch(mode=0o600)
    with step("kind cluster"):
        # Into a file of its own: the context that the user works in stays the current one.
        place = ("--config", str(ROOT / "kind-config.yaml"), "--kubeconfig", str(_KUBECONFIG))
        _show("kind", "create", "cluster", *place, "--wait", "5m")


def _finished() -> bool:
    """What kind writes last is the kubeconfig; an API server answers long before its node takes pods."""
    return _KUBECONFIG.exists() and _KUBECONFIG.stat().st_size > 0


def _delete_cluster() -> None:
    run(["kind", "delete", "cluster", "--name", _NAME, "--kubeconfig", str(_KUBECONFIG)])


def _answers() -> bool:
    """Whether the API server becomes ready soon; its node may have been stopped."""
    try:
        run(["docker", "start", *run(["kind", "get", "nodes", "--name", _NAME]).split()])
        _KUBECONFIG.write_text(run(["kind", "get", "kubeconfig", "--name", _NAME]))
    except RuntimeError:
        return False
    look = ["kubectl", "--kubeconfig", str(_KUBECONFIG), "get", "--raw", "/readyz", "--request-timeout", "5s"]
    deadline = time.monotonic() + _ANSWER_SECONDS
    while subprocess.run(look, capture_output=True, check=False).returncode:
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True


def _show(*command: str, env: dict[str, str] | None = None) -> None:
    """Run what takes long and shows its own progress. Raises RuntimeError after its last words."""
    done = subprocess.run(command, check=False, env={**os.environ, **(env or {})})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} failed (exit code {done.returncode}); what it said stands above")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
