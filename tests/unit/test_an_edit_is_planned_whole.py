"""An edit of a ModelSet is planned once, when its registry has answered for all of it."""

from typing import Any

import pytest

from ollama_fleet.api import names
from tests.support.reconciled import Reconciled

HERE = {"registry": "registry.test"}
EDITS: dict[str, dict[str, Any]] = {
    "model and context": {"models": [{"name": "chat", "model": "llama3:70b", "contextLength": 32768}]},
    "registry and secret": {"source": {"registry": "new.test", "pullSecretRef": {"name": "new"}}},
    "adapter": {"models": [{"name": "chat", "contextLength": 1024, "modelfile": {"adapter": "team/lora"}}]},
    "digest": {"models": [{"name": "chat", "contextLength": 1024, "digest": f"sha256:{'b' * 64}"}]},
    "no reference": {"models": [{"name": "chat", "contextLength": 1024, "model": f"{'h' * 351}/team/chat"}]},
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
async def test_half_an_edit_changes_nothing(edit: dict[str, Any]) -> None:
    bench = Reconciled()
    await bench.serving()
    before, config = bench.deployment, bench.config
    bench.edit_model_set(source=HERE)
    bench.edit_model_set(**edit)
    await bench.look()
    assert bench.condition("Reconciling")[:2] == ("True", "Resolving")
    assert (bench.deployment, bench.config) == (before, config)


async def test_a_new_model_costs_one_rollout() -> None:
    bench = Reconciled()
    await bench.serving()
    hashes = [bench.deployment["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH]]
    edit: dict[str, Any] = {"name": "chat", "model": "llama3:70b", "contextLength": 32768}
    for change in (
        lambda: bench.edit_model_set(models=[edit]),
        lambda: bench.model_set(edit, generation=1, letter="b"),
    ):
        change()
        await bench.look()
        hashes.append(bench.deployment["metadata"]["annotations"][names.ANNOTATION_TEMPLATE_HASH])
    assert hashes[0] == hashes[1] != hashes[2]
    assert (bench.config.models[0].tag, bench.config.models[0].context_length) == ("70b", 32768)


async def test_what_no_registry_is_asked_for_is_planned_at_once() -> None:
    bench = Reconciled()
    await bench.serving()
    bench.edit_model_set(source=HERE, models=[{"name": "chat", "contextLength": 1024}])
    await bench.look()
    assert bench.config.models[0].context_length == 1024
