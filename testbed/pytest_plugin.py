"""pytest fixtures of the test bed's levels. Each is made once per run, when the first test asks for it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed import crds
from testbed.build import KUBERNETES
from testbed.controlplane import ControlPlane
from testbed.kwok import SimulatedNodes
from testbed.state import claimed


@dataclass(frozen=True, slots=True)
class ExistingCluster:
    """A cluster that somebody else runs: reached, but never stopped, restarted or read from inside."""

    kubeconfig: Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let people test against a cluster that they have."""
    parser.addoption(
        "--use-existing",
        action="store_true",
        help="run the cluster tests against the cluster of $KUBECONFIG; the CRDs must be installed there",
    )
    parser.addoption("--kubernetes", default=KUBERNETES, help="minor of the control plane (default: %(default)s)")


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest) -> Iterator[ControlPlane | ExistingCluster]:
    """A control plane with the product's CRDs, by its ``kubeconfig``."""
    if request.config.getoption("--use-existing"):
        yield ExistingCluster(_existing_kubeconfig())
        return
    with claimed("pytest") as state:
        plane = ControlPlane(state, minor=request.config.getoption("--kubernetes"))
        plane.up()
        crds.install(plane)
        yield plane


@pytest.fixture(scope="session")
def own_control_plane(control_plane: ControlPlane | ExistingCluster) -> ControlPlane:
    """The same, for tests that restart components, read the audit log or add nodes."""
    if isinstance(control_plane, ExistingCluster):
        pytest.skip("needs a control plane of the test bed's own")
    return control_plane


@pytest.fixture(scope="session")
def kwok_cluster(own_control_plane: ControlPlane) -> Iterator[SimulatedNodes]:
    """The control plane with kwok beside it; tests add the nodes they want."""
    simulated = SimulatedNodes(own_control_plane)
    simulated.up()
    yield simulated
    simulated.down()


def _existing_kubeconfig() -> Path:
    path = Path(os.environ.get("KUBECONFIG", ""))
    if not path.is_file():
        raise pytest.UsageError("--use-existing needs KUBECONFIG to name a file")
    return path
