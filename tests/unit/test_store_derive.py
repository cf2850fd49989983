"""Derived manifests: bytes as Ollama's ``create`` writes them, and errors that name the parameter."""

import json

import pytest

from ollama_fleet.api.group import GroupModel, Modelfile
from ollama_fleet.store.derive import check_modelfile, derive, params_layers
from ollama_fleet.store.errors import InvalidManifest, InvalidModelfile
from ollama_fleet.store.manifest import (
    LAYER_ADAPTER,
    LAYER_MODEL,
    LAYER_PARAMS,
    LAYER_SYSTEM,
    LAYER_TEMPLATE,
    Descriptor,
    Manifest,
    digest_of,
    parse_manifest,
)
from ollama_fleet.store.parameters import encode_parameters


def descriptor(kind: str, content: bytes) -> Descriptor:
    return Descriptor(kind, digest_of(content), len(content))


CONFIG = descriptor("application/vnd.docker.container.image.v1+json", b"{}")
WEIGHTS = descriptor(LAYER_MODEL, b"weights")
SOURCE_PARAMS = b'{"stop":["<|end|>"],"temperature":0.6}\n'
SOURCE = Manifest(
    CONFIG,
    (
        WEIGHTS,
        descriptor(LAYER_TEMPLATE, b"{{ .Prompt }}"),
        descriptor("application/vnd.ollama.image.license", b"MIT"),
        descriptor(LAYER_PARAMS, SOURCE_PARAMS),
    ),
)


def model(**kwargs: object) -> GroupModel:
    modelfile = Modelfile.model_validate({k: v for k, v in kwargs.items() if k in Modelfile.model_fields})
    return GroupModel(
        name="chat",
        registry="r",
        repository="library/chat",
        manifest_digest="sha256:" + "0" * 64,
        context_length=kwargs.get("context_length"),  # type: ignore[arg-type]
        modelfile=modelfile,
    )


def test_nothing_asked_changes_nothing_but_the_pushers_paths() -> None:
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "config": {"mediaType": CONFIG.media_type, "digest": CONFIG.digest, "size": CONFIG.size},
            "layers": [
                {"mediaType": LAYER_MODEL, "digest": WEIGHTS.digest, "size": WEIGHTS.size, "from": "/home/me/x.gguf"}
            ],
        }
    ).encode()
    derived = derive(model(), parse_manifest(raw))
    assert b"from" not in derived.raw
    assert derived.manifest == parse_manifest(raw) == parse_manifest(derived.raw)
    assert derived.contents == ()
    assert derived.digest == digest_of(derived.raw)
    assert derived.raw.endswith(b"}"), "Ollama's digest need not cover anything behind the object"


def test_parts_replace_layers_in_the_order_of_create() -> None:
    derived = derive(
        model(template="T", system="S", parameters={"temperature": 0.1}, context_length=8192),
        SOURCE,
        params=[SOURCE_PARAMS],
    )
    assert [layer.media_type.rsplit(".", 1)[1] for layer in derived.manifest.layers] == [
        *("model", "license", "template", "system", "params")
    ]
    assert derived.contents == (b"T", b"S", b'{"num_ctx":8192,"stop":["\\u003c|end|\\u003e"],"temperature":0.1}\n')
    assert derived.manifest.of_type(LAYER_SYSTEM) == (descriptor(LAYER_SYSTEM, b"S"),)


def test_the_same_input_gives_the_same_bytes_whatever_the_order_of_keys() -> None:
    one = derive(model(parameters={"top_k": 4, "seed": 1}), SOURCE, params=[SOURCE_PARAMS])
    two = derive(model(parameters={"seed": 1, "top_k": 4}), SOURCE, params=[SOURCE_PARAMS])
    assert one.raw == two.raw


def test_an_adapter_brings_its_adapter_layers_only() -> None:
    lora = descriptor(LAYER_ADAPTER, b"lora")
    derived = derive(
        model(adapter="r/library/lora@sha256:" + "1" * 64),
        Manifest(CONFIG, (WEIGHTS,)),
        adapter=Manifest(CONFIG, (descriptor(LAYER_TEMPLATE, b"other"), lora)),
    )
    assert derived.manifest.layers == (WEIGHTS, lora)


def test_an_adapter_without_adapter_layers_is_refused() -> None:
    with pytest.raises(InvalidManifest, match="no layer of type"):
        derive(model(adapter="lora"), SOURCE, adapter=Manifest(CONFIG, (WEIGHTS,)))


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"num_ctxx": 1}, "num_ctxx"),
        ({"mirostat": 1}, "mirostat"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": True}, "top_k"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"use_mmap": 2}, "use_mmap"),
        ({"seed": ["1"]}, "seed"),
        ({"stop": 1}, "stop"),
        ({"seed": 1 << 63}, "seed"),
    ],
)
def test_a_parameter_that_ollama_would_not_take_is_named(parameters: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidModelfile, match=f"parameter '{named}'"):
        check_modelfile(Modelfile.model_validate({"parameters": parameters}), None)


def test_strings_become_the_kind_of_the_parameter() -> None:
    given = {"top_k": "40", "temperature": "0.7", "use_mmap": "true", "stop": "</s>"}
    parsed = check_modelfile(Modelfile.model_validate({"parameters": given}), None)
    assert parsed == {"top_k": 40, "temperature": 0.7, "use_mmap": True, "stop": ["</s>"]}


def test_two_context_lengths_that_disagree_are_refused() -> None:
    with pytest.raises(InvalidModelfile, match="set contextLength only"):
        check_modelfile(Modelfile(parameters={"num_ctx": 4096}), 8192)
    assert check_modelfile(Modelfile(parameters={"num_ctx": 8192}), 8192) == {"num_ctx": 8192}


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"a": NaN}', b"[" * 100_000])
def test_params_of_the_source_that_are_no_object_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidManifest, match="params layer"):
        derive(model(), SOURCE, params=[content])


def test_a_huge_params_layer_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidManifest, match="larger than"):
        params_layers(Manifest(CONFIG, (Descriptor(LAYER_PARAMS, WEIGHTS.digest, 1 << 30),)))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (1.0, "1"),
        (0.1, "0.1"),
        (1e-5, "0.00001"),
        (1.5e-7, "1.5e-7"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-0.5, "-0.5"),
        (8192, "8192"),
        (None, "null"),
        (True, "true"),
        ("a<b>&\u2028é\n\x01", '"a\\u003cb\\u003e\\u0026\\u2028é\\n\\u0001"'),
        ([1, {"b": 2, "a": []}], '[1,{"a":[],"b":2}]'),
    ],
)
def test_values_are_written_as_go_writes_them(value: object, encoded: str) -> None:
    assert encode_parameters({"k": value}) == f'{{"k":{encoded}}}\n'.encode()
