"""``kubectl ollama plan``: exit codes for scripts, 80 columns for people, and the operator's own answer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ollama_fleet.cli.main import main
from testbed.models.catalog import ensure
from testbed.paths import ROOT

FIVE = ROOT / "examples" / "five-models-24gib" / "fleet.yaml"
OFFLINE = ["--offline", "--gpu", "24Gi"]


def test_a_model_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama3.1:8b", "--context", "8k", "--parallel", "2", *OFFLINE]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "✓ plan  Ollama 0.32.3  1 GPU per server, a card sold as 24Gi has at least 22609 MiB",
        "",
        "group g0: 1 server(s), 2 slots per model",
        "  MODEL                  WEIGHTS       KV  COMPUTE    TOTAL  RESERVE  CONFIDENCE",
        "  llama3.1:8b             4.30Gi   2.00Gi   0.23Gi   6.92Gi   7.40Gi  modelled",
        "  GPU 0 ██████████████░░░░░░░░░░░░░░░░░░░░░░░░░░ 7.4 GiB used, 14.2 GiB free",
    ]
    assert lines[-1] == "From the bundled catalogue, not from a file: llama3.1:8b"
    assert all(len(line) <= 80 for line in lines[1:])
    assert "\x1b" not in "".join(lines)


def test_what_does_not_fit_is_exit_code_2_with_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama3.1:8b", "--context", "128k", "--parallel", "1", *OFFLINE]) == 2
    words = " ".join(capsys.readouterr().out.split())
    assert "DoesNotFit: llama3.1:8b needs" in words
    assert "spec.tuning.kvCacheType q8_0 would make it fit" in words
    assert main(["plan", "llama3.1:8b", "--context", "128k", "--parallel", "1", "--kv", "q8_0", *OFFLINE]) == 0


def test_five_models_on_a_card_of_24_gib(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(FIVE), "-o", "json", *OFFLINE]) == 2
    found = json.loads(capsys.readouterr().out)["five"]
    assert found["fits"] is False
    assert [problem["reason"] for problem in found["problems"]] == ["DoesNotFit"] * len(found["problems"])
    placed = {name for group in found["groups"] for name in group["models"]}
    refused = {problem["message"].split()[0] for problem in found["problems"]}
    assert placed | refused == {"small", "exact", "large", "phi", "qwen"}
    assert "large" in refused
    assert found["groups"][0]["models"]["small"]["source"] == "bundled catalogue"


def test_a_file_is_read_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ensure("chat")), "--gpu", "8Gi", "-o", "yaml"]) == 0
    ((model,),) = ([*group["models"].values()] for group in yaml.safe_load(capsys.readouterr().out)["plan"]["groups"])
    assert model["source"] == "file"
    assert model["parts"]["weights"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope:1", *OFFLINE], "nope:1: the bundled catalogue has"),
        (["llama3.1:8b", "--offline", "--gpu", "much"], "such as 24Gi or 24Gix2"),
        (["llama3.1:8b", "--offline", "--gpu-product", "Z9"], "known are T4, L4"),
        (["llama3.1:8b", "--context", "wide", *OFFLINE], "--context wide"),
        (OFFLINE, "name a model, or give manifests"),
        (["-f", "/does/not/exist.yaml", *OFFLINE], "/does/not/exist.yaml"),
        (["llama3.1:8b", "--servers", "0", *OFFLINE], "--servers 0"),
        (["llama3.1:8b", "--ollama", "0.11.0", *OFFLINE], None),
    ],
)
def test_errors_say_what_and_what_to_do(
    arguments: list[str], words: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["plan", *arguments])
    caught = capsys.readouterr()
    if words is None:
        assert code == 2
        assert "UnsupportedVersion" in caught.out
    else:
        assert code == 1
        assert words in caught.err


def test_a_bad_manifest_names_file_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: ModelSet\nmetadata: {name: x}\nspec: {models: [{name: a, contextLength: many}]}\n")
    assert main(["plan", "-f", str(bad), *OFFLINE]) == 1
    assert "bad.yaml: ModelSet x: spec.models.0.contextLength" in capsys.readouterr().err


def test_help_imports_neither_the_planner_nor_kubernetes() -> None:
    program = (
        "import sys; sys.argv = ['kubectl-ollama', 'plan', '--help']\n"
        "from ollama_fleet.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'kopf', 'kubernetes', 'httpx', 'pydantic', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
