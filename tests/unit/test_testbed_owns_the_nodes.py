"""One test bed at a time has the machine's nodes, from the moment it asks for them until its last program is gone."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from testbed import nodes
from testbed.nodes.node import nodes_state
from testbed.processes import Processes, this_process


@pytest.fixture(autouse=True)
def removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whose nodes were removed."""
    found: list[str] = []
    monkeypatch.setattr(nodes, "_OWNER", tmp_path / "nodes-owner")
    monkeypatch.setattr(nodes, "_remove", lambda state: found.append(state.name))
    return found


def claimant_dies(tmp_path: Path) -> None:
    state, _ = json.loads((tmp_path / "nodes-owner").read_text())
    (tmp_path / "nodes-owner").write_text(json.dumps([state, asdict(replace(this_process(), started=1))]))


def test_another_is_refused_while_the_claimant_lives_and_has_no_node_yet(tmp_path: Path, removed: list[str]) -> None:
    nodes._claim(tmp_path / "first")
    with pytest.raises(nodes.NodesInUse, match="first"):
        nodes._claim(tmp_path / "second")
    nodes._claim(tmp_path / "first")
    assert removed == []


def test_another_is_refused_while_a_program_of_the_nodes_lives(tmp_path: Path, removed: list[str]) -> None:
    nodes._claim(tmp_path / "first")
    claimant_dies(tmp_path)
    records = Processes(nodes_state(tmp_path / "first"))
    records.start("kubelet-1", ["sleep", "600"])
    try:
        with pytest.raises(nodes.NodesInUse, match="first"):
            nodes._claim(tmp_path / "second")
        assert removed == []
    finally:
        records.stop_all()
    nodes._claim(tmp_path / "second")
    assert removed == ["first"]


def test_another_may_have_them_after_down(tmp_path: Path, removed: list[str]) -> None:
    nodes._claim(tmp_path / "first")
    nodes.down(tmp_path / "second")
    with pytest.raises(nodes.NodesInUse, match="first"):
        nodes._claim(tmp_path / "second")
    nodes.down(tmp_path / "first")
    nodes._claim(tmp_path / "second")
