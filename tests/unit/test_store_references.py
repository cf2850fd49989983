"""Model references: the forms that Ollama takes, and what is said about the others."""

import pytest

from ollama_fleet.api.references import InvalidReference, parse_reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("llama3.1", "registry.ollama.ai/library/llama3.1:latest"),
        ("llama3.1:8b", "registry.ollama.ai/library/llama3.1:8b"),
        ("team/chat", "registry.ollama.ai/team/chat:latest"),
        ("registry.local/chat:8b", None),  # two parts are namespace and model, and a namespace holds no dot
        ("registry.local:5000/team/chat", "registry.local:5000/team/chat:latest"),
        ("registry.local:5000/team/chat:8b", "registry.local:5000/team/chat:8b"),
        ("hf.co/Org/Model-GGUF:Q4_K_M", "hf.co/Org/Model-GGUF:Q4_K_M"),
        (f"chat@sha256:{HEX}", f"registry.ollama.ai/library/chat:latest@sha256:{HEX}"),
        (f"chat:8b@sha256:{HEX}", f"registry.ollama.ai/library/chat:8b@sha256:{HEX}"),
        ("https://registry.local/team/chat", "registry.local/team/chat:latest"),
        ("_a/_b:_c", "registry.ollama.ai/_a/_b:_c"),
    ],
)
def test_a_reference_is_completed_as_ollama_does(text: str, full: str | None) -> None:
    if full is None:
        with pytest.raises(InvalidReference):
            parse_reference(text)
    else:
        assert str(parse_reference(text)) == full


def test_the_default_registry_can_be_another() -> None:
    assert str(parse_reference("chat", registry="r.local:5000")) == "r.local:5000/library/chat:latest"
    assert parse_reference("hf.co/a/b", registry="r.local").host == "hf.co"


def test_a_scheme_is_kept() -> None:
    assert parse_reference("http://r.local/a/b").scheme == "http"
    assert parse_reference("r.local/a/b").scheme == "https"


def test_case_is_kept_and_does_not_distinguish() -> None:
    upper, lower = parse_reference("Chat:8B"), parse_reference("chat:8b")
    assert upper.model == "Chat"
    assert upper != lower
    assert upper.key == lower.key


@pytest.mark.parametrize(
    ("text", "part", "problem"),
    [
        ("", "model", "is empty"),
        ("chat:", "tag", "is empty"),
        ("/chat", "namespace", "is empty"),
        ("team/", "model", "is empty"),
        ("a/b/c/d", "name", "more than three parts"),
        ("a.b/chat", "namespace", "letters, digits and _ - only"),
        ("../chat", "namespace", "only"),
        ("a/..", "model", "begins with"),
        ("chat:.hidden", "tag", "begins with"),
        ("chat model", "model", "only"),
        ("chat\n", "model", "only"),
        ("m" * 81, "model", "longer than 80"),
        ("chat:" + "t" * 81, "tag", "longer than 80"),
        ("chat@sha256:abc", "digest", "64 lower-case"),
        ("chat@" + HEX, "digest", "64 lower-case"),
        ("chat@sha256:" + HEX.upper(), "digest", "64 lower-case"),
        ("http://chat", "host", "is missing"),
    ],
)
def test_the_error_names_the_part(text: str, part: str, problem: str) -> None:
    with pytest.raises(InvalidReference, match=problem) as caught:
        parse_reference(text)
    assert caught.value.part == part
    assert repr(text) in str(caught.value)
