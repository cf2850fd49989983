"""Servers without a GPU: what plainly exceeds their memory is not started, to be killed again and again."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_fleet.api.reasons import Reason
from ollama_fleet.cli.main import main
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from tests.support.plans import again, layout, previous, slots, wish

SMALL = {"name": "llama3.2:1b", "contextLength": 8192, "parallel": 1}
LARGE = {"name": "qwen2.5:14b", "contextLength": 8192, "parallel": 1}


def plan(*models: dict[str, Any], memory: str, before: Plan | None = None) -> Plan:
    asked = wish(*models, inventory=None, hardware={"cpu": {"cores": "2", "memory": memory}})
    return again(before, asked) if before else plan_deployment(asked)


def test_models_that_need_more_than_the_memory_are_refused_with_the_numbers() -> None:
    (problem,) = plan(LARGE, SMALL, memory="8Gi").problems
    assert problem.reason is Reason.DOES_NOT_FIT
    assert problem.message.startswith("qwen2.5:14b, llama3.2:1b: 11.7 GiB are needed")
    assert "hardware.cpu.memory is 8Gi" in problem.message
    (remedy,) = problem.remedies
    assert layout(plan(LARGE, SMALL, memory=str(remedy.change["memory"]))) == {"g0": ["qwen2.5:14b", "llama3.2:1b"]}


def test_of_models_on_demand_one_at_a_time_counts() -> None:
    guests = [{**LARGE, "residency": "OnDemand"}, {**SMALL, "residency": "OnDemand"}]
    assert plan(*guests, memory="11Gi").problems == ()
    assert plan(LARGE, SMALL, memory="11Gi").problems


def test_slots_and_contexts_count() -> None:
    assert plan(SMALL, memory="2Gi").problems == ()
    assert plan({**SMALL, "parallel": 16}, memory="2Gi").problems


def test_a_model_of_unknown_size_is_served() -> None:
    asked = wish(LARGE, inventory=None, hardware={"cpu": {"cores": "2", "memory": "1Gi"}})
    view = asked.model_sets["models"]
    assert view is not None
    unknown = [model.model_copy(update={"header": None}) for model in view.status.models]
    status = view.status.model_copy(update={"models": unknown})
    assert plan_deployment(replace(asked, model_sets={"models": replace(view, status=status)})).problems == ()


def test_what_runs_goes_on_until_its_memory_or_its_models_change() -> None:
    """An earlier version started such servers, and on storage that is fast enough they may work."""
    before = plan(LARGE, memory="16Gi")
    asked = wish(LARGE, inventory=None, hardware={"cpu": {"cores": "2", "memory": "4Gi"}})
    (group,) = previous(before)
    older = replace(group, record=group.record.model_copy(update={"sized_for": ""}))
    assert slots(plan_deployment(replace(asked, previous=(older,)))) == slots(before)
    assert plan(LARGE, memory="4Gi", before=before).problems
    assert plan(LARGE, SMALL, memory="11Gi", before=before).problems


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [
        {"kind": "ModelSet", "metadata": {"name": "s"}, "spec": {"models": [LARGE]}},
        {
            "kind": "OllamaDeployment",
            "metadata": {"name": "d"},
            "spec": {"modelSets": [{"name": "s"}], "hardware": {"cpu": {"cores": "2", "memory": "2Gi"}}},
        },
    ]
    file = tmp_path / "fleet.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    assert main(["plan", "-f", str(file), "--offline", "-o", "json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["d"]["problems"]
    assert problem["reason"] == "DoesNotFit"
