"""What the operator learns of a model from its registry."""

from pathlib import Path
from typing import Any, cast

import gguf

from ollama_fleet.api.modelset import ModelSetSpec, ResolvedModel
from ollama_fleet.controllers.resolver import RegistryResolver
from ollama_fleet.store.manifest import digest_of
from testbed.fakes.registry import FakeRegistry
from testbed.models.catalog import ensure


async def resolve(registry: FakeRegistry, name: str) -> ResolvedModel:
    source = {"registry": registry.address, "insecure": True}
    spec = ModelSetSpec.model_validate({"source": source, "models": [{"name": name}]})
    return await RegistryResolver(cast("Any", None)).resolve("ns", spec, spec.models[0], before=None)


async def test_manifests_over_the_same_file_share_its_digest() -> None:
    raw = ensure("chat").read_bytes()
    async with FakeRegistry() as registry:
        for name in ("sales", "support"):
            registry.add_model(raw, repository=f"library/{name}", params={"stop": [name]})
        found = [await resolve(registry, name) for name in ("sales", "support")]
    assert {model.weights for model in found} == {digest_of(raw)}
    assert len({model.digest for model in found}) == 2
    assert all(model.ready and model.header for model in found)


async def test_a_model_with_a_header_of_impossible_numbers_is_served_without_being_sized(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "mamba")
    for key, value in {
        "block_count": 2,
        "embedding_length": 64,
        "ssm.inner_size": 2**30,
        "ssm.state_size": 2**30,
        "ssm.conv_kernel": 4,
    }.items():
        writer.add_uint32(f"mamba.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    async with FakeRegistry() as registry:
        registry.add_model((tmp_path / "odd.gguf").read_bytes(), repository="library/odd")
        found = await resolve(registry, "odd")
    assert (found.ready, found.header) == (True, None)
    assert "its memory cannot be estimated" in found.message
