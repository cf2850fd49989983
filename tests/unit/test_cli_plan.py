"""``kubectl ollama plan``: exit codes for scripts, 80 columns for people, and the operator's own answer."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ollama_fleet.cli import plan as command
from ollama_fleet.cli import planterminal
from ollama_fleet.cli.main import main
from testbed.models.catalog import ensure
from testbed.paths import ROOT
from tests.support.golden import agree

EXAMPLES = ROOT / "examples"
FIVE = str(EXAMPLES / "five-models-24gib" / "fleet.yaml")
OFFLINE = ["--offline", "--gpu", "24Gi"]
SHOWN = {
    "fits": (0, ["llama3.1:8b", "--context", "8k", "--parallel", "2", *OFFLINE]),
    "does-not-fit": (2, ["qwen2.5:32b", "--context", "32k", "--parallel", "1", *OFFLINE]),
    "five-models": (2, ["-f", FIVE, *OFFLINE]),
    "two-teams": (0, ["-f", str(EXAMPLES / "multi-tenant" / "fleet.yaml"), "--offline", "--gpu-product", "L40S"]),
    "cores": (0, ["-f", str(EXAMPLES / "cpu-chat" / "fleet.yaml"), "--offline"]),
    "four-gpus": (0, ["llama3.1:70b", "--context", "16k", "--parallel", "2", "--offline", "--gpu", "24Gix4"]),
    "older-ollama": (0, ["llama3.1:8b", "--ollama", "0.24.0", "--kv", "q8_0", *OFFLINE]),
}


@pytest.mark.parametrize("case", SHOWN)
def test_without_a_terminal_it_is_plain_text_of_80_columns(
    case: str, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    code, arguments = SHOWN[case]
    assert main(["plan", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    assert "\x1b" not in shown.out
    agree(shown.out, f"plan/{case}.txt", request)


@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_it_is_as_wide_as_that_and_in_colour(
    width: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system="standard", highlight=False)
    planterminal.show(_views(["-f", FIVE, *OFFLINE], monkeypatch), console)
    assert "\x1b[" in shown.getvalue()
    plain = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    planterminal.show(_views(["-f", FIVE, *OFFLINE], monkeypatch), plain)
    assert isinstance(plain.file, io.StringIO)
    lines = [line.rstrip() for line in plain.file.getvalue().splitlines()]
    assert all(len(line) <= width for line in lines)
    agree("\n".join(lines) + "\n", f"plan/terminal-{width}.txt", request)


def _views(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    kept: list[Any] = []
    monkeypatch.setattr(command, "_print", lambda views, _: kept.extend(views))
    main(["plan", *arguments])
    return kept


@pytest.mark.parametrize(("no_colour", "coloured"), [(None, True), ("1", False)])
def test_a_terminal_gets_rich_and_no_color_is_honoured(no_colour: str | None, *, coloured: bool) -> None:
    """In a process of its own, on a terminal of its own."""
    program = (
        "import pty, sys\n"
        "options = ['plan', 'llama3.1:8b', '--offline', '--gpu', '24Gi']\n"
        "pty.spawn([sys.executable, '-m', 'ollama_fleet.cli.main', *options])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "TERM": "xterm-256color", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    if no_colour:
        environment["NO_COLOR"] = no_colour
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
    text = done.stdout.decode()
    assert "SETTING" in text
    assert ("\x1b[36m" in text or "\x1b[1;32m" in text) is coloured


def test_a_pipe_does_not_wait_for_rich() -> None:
    program = (
        "import sys\n"
        "from ollama_fleet.cli.main import main\n"
        "assert main(['plan', 'llama3.1:8b', '--offline', '--gpu', '24Gi']) == 0\n"
        "heavy = {'kopf', 'kubernetes', 'httpx', 'rich'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["status", "--help"]])
def test_help_imports_nothing_that_takes_time(arguments: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['kubectl-ollama', *{arguments!r}]\n"
        "from ollama_fleet.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as done: assert done.code == 0\n"
        "heavy = {'kopf', 'kubernetes', 'httpx', 'pydantic', 'rich', 'yaml', 'asyncio', 'dataclasses'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()


def test_programs_get_bytes_reasons_and_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", FIVE, "-o", "json", *OFFLINE]) == 2
    found = json.loads(capsys.readouterr().out)["five"]
    assert found["fits"] is False
    placed = {name for group in found["groups"] for name in group["models"]}
    refused = {problem["message"].split()[0]: problem for problem in found["problems"]}
    assert placed | refused.keys() == {"small", "exact", "large", "phi", "qwen"}
    assert refused["large"]["remedies"] == [{"count": 4}]
    (group,) = found["groups"]
    assert group["models"]["small"]["source"] == "bundled catalogue"
    assert group["models"]["small"]["parts"]["kv"] > 0
    assert group["hostMemory"]["request"] > 0
    assert group["environment"]["OLLAMA_KV_CACHE_TYPE"] == group["kvCacheType"] == "q8_0"
    assert {one["name"]: one["source"] for one in found["effective"]}["version"] == "spec"
    assert main(["plan", "-f", FIVE, "-o", "yaml", *OFFLINE]) == 2
    assert yaml.safe_load(capsys.readouterr().out)["five"] == found


def test_a_file_is_read_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(ensure("chat")), "--gpu", "8Gi", "-o", "yaml"]) == 0
    ((model,),) = ([*group["models"].values()] for group in yaml.safe_load(capsys.readouterr().out)["plan"]["groups"])
    assert model["source"] == "file"
    assert model["parts"]["weights"] > 0


def test_a_registry_that_cannot_be_asked_is_told_beside_the_catalogue_s_answer(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    models = [{"name": "llama3.1:8b", "contextLength": 4096}]
    source = {"registry": "127.0.0.1:9", "insecure": True}
    manifest = tmp_path / "set.yaml"
    manifest.write_text(
        yaml.safe_dump({"kind": "ModelSet", "metadata": {"name": "x"}, "spec": {"source": source, "models": models}})
    )
    assert main(["plan", "-f", str(manifest), "--gpu", "24Gi"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "From the bundled catalogue, not from a file: llama3.1:8b" in words
    assert "127.0.0.1:9" in words


def deployment(**spec: Any) -> str:
    wish = {"modelSets": [{"name": "x"}], "hardware": {"gpu": {"count": 2}}, **spec}
    return yaml.safe_dump({"kind": "OllamaDeployment", "metadata": {"name": "d"}, "spec": wish})


SET = yaml.safe_dump({"kind": "ModelSet", "metadata": {"name": "x"}, "spec": {"models": [{"name": "llama3.1:8b"}]}})


@pytest.mark.parametrize(
    ("manifest", "gpu", "gpus"),
    [
        (SET, "24Gi", 1),
        (SET, "24Gix4", 4),
        (f"{SET}---\n{deployment()}", "24Gi", 2),
        (f"{SET}---\n{deployment()}", "24Gix2", 2),
    ],
)
def test_a_deployment_says_how_many_gpus_and_else_the_command_line_does(
    manifest: str, gpu: str, gpus: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.yaml").write_text(manifest)
    assert main(["plan", "-f", str(tmp_path / "fleet.yaml"), "--offline", "--gpu", gpu, "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out).values()
    assert len(found["groups"][0]["gpus"]) == gpus


def test_a_manifest_and_the_command_line_do_not_disagree_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.yaml").write_text(f"{SET}---\n{deployment()}")
    assert main(["plan", "-f", str(tmp_path / "fleet.yaml"), "--offline", "--gpu", "24Gix4"]) == 1
    assert "--gpu 24Gix4 names 4 GPUs per server, hardware.gpu.count of the deployment 2" in capsys.readouterr().err


def test_a_card_that_the_deployment_would_not_take_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fleet.yaml").write_text(f"{SET}---\n{deployment(hardware={'gpu': {'count': 1, 'minMemory': '40Gi'}})}")
    assert main(["plan", "-f", str(tmp_path / "fleet.yaml"), *OFFLINE]) == 1
    assert "takes no GPU below hardware.gpu.minMemory 40Gi" in capsys.readouterr().err


def test_sets_of_one_name_in_two_namespaces_are_two(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", *SHOWN["two-teams"][1], "-o", "json"])
    found = json.loads(capsys.readouterr().out)
    models = {
        name: sorted(model for group in one["groups"] for model in group["models"]) for name, one in found.items()
    }
    assert models == {"research/reasoning": ["reasoning"], "support/chat": ["chat"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope:1", *OFFLINE], "nope:1: the bundled catalogue has"),
        (["llama3.1:8b", "--offline", "--gpu", "much"], "such as 24Gi or 24Gix2"),
        (["llama3.1:8b", "--offline", "--gpu-product", "Z9"], "known are T4, L4"),
        (["llama3.1:8b", "--offline"], "plan runs on GPUs: say which with --gpu 24Gi or --gpu-product L4"),
        (["llama3.1:8b", "--context", "wide", *OFFLINE], "--context wide"),
        (OFFLINE, "name a model, or give manifests"),
        (["-f", "/does/not/exist.yaml", *OFFLINE], "/does/not/exist.yaml"),
        (["-f", FIVE, "--context", "8k", *OFFLINE], "with -f, set them in the manifests"),
        (["llama3.1:8b", "--servers", "0", *OFFLINE], "--servers 0"),
        (["llama3.1:8b", "--ollama", "new", *OFFLINE], "--ollama new"),
    ],
)
def test_errors_say_what_and_what_to_do(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_what_the_operator_would_refuse_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "llama3.1:8b", "--ollama", "0.11.0", *OFFLINE]) == 2
    assert "UnsupportedVersion" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["--bogus"], ["llama3.1:8b", "--kv", "q9"], ["--gpu", "8Gi", "--gpu-product", "L4"]]
)
def test_a_wrong_option_is_an_error_and_no_answer(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *arguments])
    assert stopped.value.code == 1
    assert "kubectl-ollama" in capsys.readouterr().err


def test_a_bad_manifest_names_file_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("kind: ModelSet\nmetadata: {name: x}\nspec: {models: [{name: a, contextLength: many}]}\n")
    assert main(["plan", "-f", str(bad), *OFFLINE]) == 1
    assert "bad.yaml: ModelSet x: spec.models.0.contextLength" in capsys.readouterr().err


def test_a_reader_who_has_seen_enough_gets_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    plan = [sys.executable, "-m", "ollama_fleet.cli.main", "plan", "llama3.1:8b", *OFFLINE]
    done = subprocess.run(plan, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(("model", "gpus"), [("llama3.2:1b", 1), ("llama3.1:70b", 4)])
def test_the_figures_of_a_model_are_those_of_the_gpus_that_it_goes_to(
    model: str, gpus: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model, "--context", "8k", "--offline", "--gpu", "24Gix4", "-o", "json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)["plan"]["groups"]
    found = group["models"][model]
    assert len(found["perGPU"]) == gpus
    assert [gpu["used"] > 0 for gpu in group["gpus"]] == [number < gpus for number in range(4)]
    assert sum(gpu["used"] for gpu in group["gpus"]) >= found["total"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["llama3.1:8b", "--gpu", "24Gix99"], "24Gix99: 99 GPUs per server"),
        (["-f", "odd.yaml", "--gpu", "24Gi"], "odd.yaml: ModelSet: metadata has no name in it"),
    ],
)
def test_nonsense_is_answered_in_one_line(
    arguments: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.yaml").write_text("{kind: ModelSet, metadata: [x], spec: {models: [{name: a}]}}")
    assert main(["plan", *arguments, "--offline"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_a_local_file_of_a_model_s_name_does_not_hide_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama3.1:8b").write_text("notes")
    assert main(["plan", "llama3.1:8b", *OFFLINE]) == 0
    assert "From the bundled catalogue" in capsys.readouterr().out


def test_a_file_may_have_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "My Model (2).gguf"
    file.write_bytes(ensure("chat").read_bytes())
    assert main(["plan", str(file), *OFFLINE]) == 0
    assert "My-Model-2" in capsys.readouterr().out
