"""What the door lets through. Ollama has no authentication: everything that manages models stays outside."""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Dialect(Enum):
    """Whose error shape a client expects."""

    OLLAMA = "ollama"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Kind(Enum):
    """What a route needs from the door."""

    PLAIN = "plain"
    """No model is run: passed on as it is."""
    MODEL = "model"
    """A model is named in the JSON body and takes a slot."""
    SHOW = "show"
    """A model is named in the JSON body; no slot."""


@dataclass(frozen=True, slots=True)
class Route:
    """One allowed method and path."""

    kind: Kind
    dialect: Dialect = Dialect.OLLAMA


_PLAIN: Final = Route(Kind.PLAIN)
_MODEL: Final = Route(Kind.MODEL)
_OPENAI: Final = Route(Kind.MODEL, Dialect.OPENAI)

_ROUTES: Final[dict[tuple[str, str], Route]] = {
    ("GET", "/"): _PLAIN,
    ("HEAD", "/"): _PLAIN,
    ("GET", "/api/version"): _PLAIN,
    ("HEAD", "/api/version"): _PLAIN,
    ("GET", "/api/tags"): _PLAIN,
    ("HEAD", "/api/tags"): _PLAIN,
    ("GET", "/api/ps"): _PLAIN,
    ("GET", "/v1/models"): Route(Kind.PLAIN, Dialect.OPENAI),
    ("POST", "/api/show"): Route(Kind.SHOW),
    ("POST", "/api/generate"): _MODEL,
    ("POST", "/api/chat"): _MODEL,
    ("POST", "/api/embed"): _MODEL,
    ("POST", "/api/embeddings"): _MODEL,
    ("POST", "/v1/chat/completions"): _OPENAI,
    ("POST", "/v1/completions"): _OPENAI,
    ("POST", "/v1/responses"): _OPENAI,
    ("POST", "/v1/embeddings"): _OPENAI,
    ("POST", "/v1/messages"): Route(Kind.MODEL, Dialect.ANTHROPIC),
}
_ONE_MODEL: Final = "/v1/models/"


def find(method: str, path: str) -> Route | None:
    """The route of a request, None where the door stays shut."""
    if method == "GET" and path.startswith(_ONE_MODEL) and len(path) > len(_ONE_MODEL):
        return Route(Kind.PLAIN, Dialect.OPENAI)
    return _ROUTES.get((method, path))


def dialect(path: str) -> Dialect:
    """Whose error shape fits a path, also one that is not served."""
    if path.startswith("/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.OPENAI if path.startswith("/v1/") else Dialect.OLLAMA
