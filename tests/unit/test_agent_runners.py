"""Which weights a process serves, by its command line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_fleet.agent.runners import Runner, parse_command, runner_of, weights_of

HEX = "ab" * 32
BLOB = f"/models/blobs/sha256-{HEX}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["/usr/lib/ollama/llama-server", "--model", BLOB, "--port", "40001", "--host", "127.0.0.1"],
        ["/usr/bin/ollama", "runner", "--ollama-engine", "--model", BLOB, "--port", "40001"],
    ],
    ids=["from 0.30", "up to 0.24"],
)
def test_the_server_of_a_model_names_its_weights(arguments: list[str], tmp_path: Path) -> None:
    text = "\0".join(arguments) + "\0"
    assert parse_command(text) == f"sha256:{HEX}"
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_text(text)
    assert weights_of(7, proc=tmp_path) == f"sha256:{HEX}"


@pytest.mark.parametrize(
    "text",
    ["", "ollama\0serve\0", f"cat\0{BLOB}\0", f"x\0--model\0{BLOB}x\0", "x\0--model\0", f"x\0--model={BLOB}\0"],
)
def test_other_programs_serve_none(text: str) -> None:
    assert parse_command(text) is None


def test_a_process_of_a_pod_and_one_outside(tmp_path: Path) -> None:
    uid = "0b5a3f4e-3c43-4e0e-9d3c-0a8f0c1d2e3f"
    for pid, cgroup in ((7, f"0::/kubepods/pod{uid}/{'c' * 64}"), (8, "0::/user.slice")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(cgroup)
        (tmp_path / str(pid) / "cmdline").write_text(f"llama-server\0--model\0{BLOB}\0")
    assert runner_of(7, proc=tmp_path) == Runner(uid, f"sha256:{HEX}")
    assert runner_of(8, proc=tmp_path) == runner_of(9, proc=tmp_path) == Runner("", None)


def test_a_process_that_is_gone_serves_none(tmp_path: Path) -> None:
    assert weights_of(7, proc=tmp_path) is None


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    assert parse_command(text) is None or "--model" in text
