"""Model references as Ollama reads them: ``[host/][namespace/]model[:tag][@sha256:digest]``.

Rules from Ollama's ``types/model/name.go`` (v0.32.3): at most three parts, ``namespace/model`` never names a host, each
part begins with a letter, a digit or ``_``, a namespace holds no dot, case is kept but does not distinguish. The digest
is ours: Ollama reserves the form without serving it.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

DEFAULT_REGISTRY: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

Scheme = Literal["https", "http"]

_PARTS: Final = {
    "host": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*"), 350, "letters, digits and _ . - :"),
    "namespace": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*"), 80, "letters, digits and _ -"),
    "model": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"), 80, "letters, digits and _ . -"),
    "tag": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"), 80, "letters, digits and _ . -"),
}
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class InvalidReference(ValueError):
    """A model reference that Ollama would not take; the message names the part and what is wrong with it."""

    def __init__(self, text: str, part: str, problem: str) -> None:
        super().__init__(f"model reference {text!r}: {part} {problem}")
        self.part = part


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A complete reference: defaults filled in, case as written."""

    host: str
    namespace: str
    model: str
    tag: str
    digest: str | None = None
    scheme: Scheme = "https"

    @property
    def repository(self) -> str:
        """The repository in the registry, e.g. ``library/llama3.1``."""
        return f"{self.namespace}/{self.model}"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for references that Ollama takes for the same name (it ignores case)."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    def __str__(self) -> str:
        name = f"{self.host}/{self.repository}:{self.tag}"
        return f"{name}@{self.digest}" if self.digest else name


def parse_reference(text: str, *, registry: str = DEFAULT_REGISTRY) -> ModelReference:
    """Parse a reference; ``registry`` is the host of references that name none.

    Raises `InvalidReference`, which names the part at fault.
    """
    name, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidReference(text, "digest", "must be sha256: and 64 lower-case hexadecimal digits")
    scheme, name = _scheme(name)
    name, tag = _tag(name)
    parts = name.split("/")
    if len(parts) > 3:
        raise InvalidReference(text, "name", "has more than three parts (host/namespace/model)")
    host, namespace, model = [registry, DEFAULT_NAMESPACE][: 3 - len(parts)] + parts
    if scheme is not None and len(parts) < 3:
        raise InvalidReference(text, "host", "is missing after the scheme (scheme://host/namespace/model)")
    for part, value in (("host", host), ("namespace", namespace), ("model", model), ("tag", tag)):
        _check(text, part, value)
    return ModelReference(host, namespace, model, tag, digest or None, scheme or "https")


def _scheme(name: str) -> tuple[Scheme | None, str]:
    if name.startswith("http://"):
        return "http", name.removeprefix("http://")
    if name.startswith("https://"):
        return "https", name.removeprefix("https://")
    return None, name


def _tag(name: str) -> tuple[str, str]:
    """Split the tag off: a colon before the last slash belongs to the host's port."""
    colon = name.rfind(":")
    if colon > name.rfind("/"):
        return name[:colon], name[colon + 1 :]
    return name, DEFAULT_TAG


def _check(text: str, part: str, value: str) -> None:
    pattern, limit, allowed = _PARTS[part]
    if not value:
        raise InvalidReference(text, part, "is empty")
    if len(value) > limit:
        raise InvalidReference(text, part, f"is longer than {limit} characters")
    if not pattern.fullmatch(value):
        raise InvalidReference(text, part, f"{value!r} may hold {allowed} only, and begins with a letter, a digit or _")
