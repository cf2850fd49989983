"""The demo's way through kind, with programs in the place of kind, docker and kubectl that say what they were told."""

import stat
import sys
from pathlib import Path

import pytest
import yaml

from testbed.demo import __main__ as command_line
from testbed.demo import kind, local
from testbed.paths import ROOT
from tests.support.programs import Programs

ID = "0123456789ab" + "c" * 52
IMAGE = "localhost/ollama-fleet-demo:0123456789ab"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: str(directory / name) if (directory / name).exists() else None)
    monkeypatch.setattr(kind, "STATE", tmp_path)
    monkeypatch.setattr(kind, "_KUBECONFIG", tmp_path / "kind.kubeconfig")
    monkeypatch.setattr(local, "_STATE", tmp_path / "demo")
    monkeypatch.setattr(local, "missing", lambda: "it is not the place for it")
    monkeypatch.setattr(sys, "argv", ["demo"])
    made = Programs(directory)
    made.add("kubectl")
    made.add("helm")
    return made


@pytest.fixture
def engine(programs: Programs) -> Programs:
    """Docker that builds one image, and kind without a cluster."""
    programs.add(
        "docker",
        f"""case "$1 $2" in
        "image inspect") echo sha256:{ID};;
        "image ls") echo {IMAGE};;
        esac""",
    )
    programs.add("kind")
    return programs


def with_cluster(programs: Programs, *, kubeconfig: str = "echo apiVersion: v1", finished: bool = True) -> None:
    kind._KUBECONFIG.touch(mode=0o600)
    kind._KUBECONFIG.write_text("of an earlier run" if finished else "")
    programs.add(
        "kind",
        f"""case "$1 $2" in
        "get clusters") echo ollama-fleet-demo;;
        "get nodes") echo ollama-fleet-demo-control-plane;;
        "get kubeconfig") {kubeconfig};;
        esac""",
    )


def test_what_is_missing_is_said(programs: Programs) -> None:
    assert kind.missing() == "kind is not installed"
    programs.add("kind")
    assert kind.missing() == "docker is not installed"
    programs.add("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    assert kind.missing() == "kind is installed, but Docker does not answer: Cannot connect to the Docker daemon"
    programs.add("docker")
    assert not kind.missing()


def test_an_engine_that_hangs_is_not_waited_for(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "_ENGINE_SECONDS", 0.1)
    programs.add("kind")
    programs.add("docker", "exec sleep 60")
    assert "does not answer within" in kind.missing()


def test_pods_follow_the_content_of_the_image(engine: Programs) -> None:
    cluster = kind.up("0.32.3")
    assert cluster.fleet_image == IMAGE
    assert engine.calls("docker tag") == [f"docker tag localhost/ollama-fleet-demo:latest {IMAGE}"]
    assert engine.calls("kind load") == [f"kind load docker-image {IMAGE} --name ollama-fleet-demo"]


def test_the_users_own_kubeconfig_is_left_alone(engine: Programs) -> None:
    kind.up("0.32.3")
    kind.down()
    (created,), (deleted,) = engine.calls("kind create"), engine.calls("kind delete")
    assert f"--kubeconfig {kind._KUBECONFIG}" in created
    assert f"--kubeconfig {kind._KUBECONFIG}" in deleted


def test_a_cluster_that_answers_is_used_again_and_started_where_it_was_stopped(engine: Programs) -> None:
    with_cluster(engine)
    kind.up("0.32.3")
    assert engine.calls("docker start") == ["docker start ollama-fleet-demo-control-plane"]
    assert not engine.calls("kind create")
    assert kind._KUBECONFIG.read_text() == "apiVersion: v1\n"
    assert stat.S_IMODE(kind._KUBECONFIG.stat().st_mode) == 0o600


@pytest.mark.parametrize("trouble", ["unfinished", "unknown", "no node", "not ready"])
def test_a_cluster_that_does_not_answer_is_made_anew(
    engine: Programs, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(kind, "_ANSWER_SECONDS", -1)
    with_cluster(engine, kubeconfig="exit 1" if trouble == "no node" else "", finished=trouble != "unfinished")
    if trouble == "unknown":
        kind._KUBECONFIG.unlink()
    if trouble == "not ready":
        engine.add("kubectl", "exit 1")
    kind.up("0.32.3")
    assert len(engine.calls("kind delete")) == len(engine.calls("kind create")) == 1


def test_the_cluster_goes_by_the_name_that_its_configuration_has() -> None:
    configuration = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert configuration["name"] == kind._NAME


def test_down_removes_cluster_images_and_record(engine: Programs) -> None:
    kind.up("0.32.3")
    kind.down()
    assert engine.calls("docker image rm") == [f"docker image rm {IMAGE}"]
    assert not kind._KUBECONFIG.exists()


def test_down_while_docker_is_stopped_fails_and_forgets_nothing(
    engine: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind.up("0.32.3")
    engine.add("docker", "echo 'Cannot connect' >&2; exit 1")
    monkeypatch.setattr(sys, "argv", ["demo", "--down"])
    assert command_line.main() == 1
    assert (
        "the cluster in Docker stays, for make down to remove it later: kind is installed, but Docker does"
        in capsys.readouterr().err
    )
    assert kind._KUBECONFIG.exists()


@pytest.mark.usefixtures("programs")
def test_down_with_nothing_made_is_fine_without_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--down"])
    assert command_line.main() == 0


def test_a_failure_is_told_without_a_traceback(engine: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    engine.add("docker", '[ "$1" != build ]')
    assert command_line.main() == 1
    assert "error: docker build --tag failed (exit code 1)" in capsys.readouterr().err


def test_where_no_cluster_can_be_made_both_reasons_are_told(
    programs: Programs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main() == 1
    assert "kind: kind is not installed\nwithout it: it is not the place for it" in capsys.readouterr().err
    (programs.directory / "kubectl").unlink()
    assert command_line.main() == 1
    assert "error: kubectl is not installed" in capsys.readouterr().err


def test_a_version_that_is_not_built_on_this_machine_is_named(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "missing", lambda: "")
    monkeypatch.setattr(sys, "argv", ["demo", "--ollama", "0.31.0"])
    assert command_line.main() == 1
    assert "Ollama 0.31.0 cannot be built here, only 0.24.0 and 0.32.3" in capsys.readouterr().err
