"""All recipes. The minutes are those of a cold ``prepare`` on two cores."""

from functools import partial
from pathlib import Path
from typing import Final, TextIO

from testbed.build.fake_nvml import SOURCE, fake_nvml
from testbed.build.ollama import MODELS_TOGETHER, in_process, llama_cpp, llama_server
from testbed.build.recipe import GO, Recipe, go_build

KUBERNETES: Final = "1.37"
"""The Kubernetes minor that runs when none is asked for."""

_MINORS: Final = {"1.37": "v1.37.1", "1.36": "v1.36.4", "1.35": "v1.35.4"}
_COMPONENTS: Final = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubelet",
)


def _kubernetes(minor: str, target: Path, log: TextIO) -> None:
    """One binary that is every component by the name it is started with; unstamped versions are not semantic."""
    version = _MINORS[minor]
    base, client = "k8s.io/component-base/version", "k8s.io/client-go/pkg/version"
    number = minor.partition(".")[2]
    go_build(
        "kubernetes",
        ".",
        target / "bin" / "kubernetes",
        log=log,
        modfile=None if minor == KUBERNETES else f"go-{minor}.mod",
        ldflags=f"-X {base}.gitVersion={version} -X {base}.gitMajor=1 -X {base}.gitMinor={number} "
        f"-X {client}.gitVersion={version}",
    )
    for component in _COMPONENTS:
        (target / "bin" / component).symlink_to("kubernetes")


def _tool(module: str, package: str, target: Path, log: TextIO) -> None:
    go_build(module, package, target / "bin" / module, log=log)


def _module(name: str, suffix: str = "") -> tuple[Path, ...]:
    stem = f"go{suffix}"
    files = (GO / name / f"{stem}.mod", GO / name / f"{stem}.sum", GO / name / "main.go")
    return tuple(path for path in files if path.exists())


def _recipes() -> tuple[Recipe, ...]:
    kubernetes = (
        Recipe(
            f"kubernetes-{minor}",
            12,
            _module("kubernetes", "" if minor == KUBERNETES else f"-{minor}"),
            partial(_kubernetes, minor),
        )
        for minor in _MINORS
        if minor == KUBERNETES or (GO / "kubernetes" / f"go-{minor}.mod").exists()
    )
    packages = {
        "registry": "github.com/distribution/distribution/v3/cmd/registry",
        "helm": "helm.sh/helm/v4/cmd/helm",
        "kwok": "sigs.k8s.io/kwok/cmd/kwok",
        "kube-router": ".",
    }
    tools = (Recipe(name, 2, _module(name), partial(_tool, name, package)) for name, package in packages.items())
    here = Path(__file__).parent / "ollama.py"
    return (
        *kubernetes,
        *tools,
        Recipe("llama-cpp", 8, (here, MODELS_TOGETHER), llama_cpp),
        Recipe("ollama-0.24.0", 5, (*_module("ollama-0.24.0"), here), in_process),
        Recipe("ollama-0.32.3", 2, (*_module("ollama-0.32.3"), here, MODELS_TOGETHER), llama_server),
        Recipe("fake-nvml", 1, (SOURCE, SOURCE.parents[2] / "build" / "fake_nvml.py"), fake_nvml),
    )


RECIPES: Final = {recipe.name: recipe for recipe in _recipes()}
