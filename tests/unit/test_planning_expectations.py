"""What the gate expects of servers: no load that is as it should be is taken for one that is not on the GPUs."""

from dataclasses import replace

import pytest

from ollama_fleet.planning.expectations import expect
from ollama_fleet.planning.footprints import calibration_key, estimate_of
from ollama_fleet.planning.inventory import Inventory, usable
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.sizing.calibration import Calibration
from tests.support.plans import shape_of, wish

NAME = "llama3.1:8b"
SHAPES = {NAME: shape_of(NAME)}


def on(gpus: int) -> Group:
    card = Inventory(gpus, usable(81559), 1, "test", product="NVIDIA-H100-80GB-HBM3")
    return plan_deployment(wish({"name": NAME}, inventory=card)).groups[0]


def taken(group: Group, *, gpus: int) -> int:
    """What a load takes on so many of the GPUs."""
    slots, options = group.config.num_parallel, replace(group.options, gpus=gpus)
    return estimate_of(group.config.models[0], SHAPES[NAME], options, parallel=slots).total


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_a_model_that_one_of_several_gpus_holds_is_expected_on_one(gpus: int) -> None:
    group = on(gpus)
    assert expect(group.config, SHAPES, group.options).planned == {NAME: taken(group, gpus=1)}


def test_what_was_measured_over_all_gpus_counts_where_it_is_less() -> None:
    group = on(4)
    key = calibration_key(
        group.config.models[0], group.options, parallel=group.config.num_parallel, product=group.options.product
    )
    measured = Calibration().record(key, taken(group, gpus=1) // 2)
    found = expect(group.config, SHAPES, replace(group.options, measured=measured)).planned[NAME]
    assert found == pytest.approx(taken(group, gpus=1) // 2, rel=0.05)


def test_names_over_the_same_weights_are_one_process() -> None:
    models = [{"name": name, "model": NAME, "contextLength": 8192, "parallel": 1} for name in ("sales", "support")]
    asked = wish(*models)
    view = asked.model_sets["models"]
    assert view is not None
    shared = [model.model_copy(update={"weights": "sha256:" + "f" * 64}) for model in view.status.models]
    view = replace(view, status=view.status.model_copy(update={"models": shared}))
    (group,) = plan_deployment(replace(asked, model_sets={"models": view})).groups
    found = expect(group.config, dict.fromkeys(("sales", "support"), SHAPES[NAME]), group.options)
    assert len(found.planned) == 1
    assert found.contexts == {"sales": 8192, "support": 8192}
