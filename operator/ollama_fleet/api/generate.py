"""``python -m ollama_fleet.api.generate [--check] ROOT``: write what is derived from the models, or name what is stale.

Written are the definitions in ``crds/``, the chart's copy of them, and the reference pages in ``docs/reference/``.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from ollama_fleet.api import reference
from ollama_fleet.api.crd import DEFINITIONS, definition

_HEADER: Final = "# Generated from operator/ollama_fleet/api by `make generate`; do not edit.\n"
_COPIES: Final = (Path("crds"), Path("charts/ollama-fleet/files/crds"))


def outputs() -> Iterator[tuple[Path, str]]:
    """Every generated file, relative to the root of the repository, with its content."""
    for kind in DEFINITIONS:
        text = _HEADER + _yaml(definition(kind))
        for folder in _COPIES:
            yield folder / f"{kind.plural}.yaml", text
    kustomization = {"resources": [f"{kind.plural}.yaml" for kind in DEFINITIONS]}
    yield _COPIES[0] / "kustomization.yaml", _HEADER + _yaml(kustomization)
    yield Path("docs/reference/custom-resources.md"), reference.custom_resources()
    yield Path("docs/reference/reasons.md"), reference.reasons()


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check; 1 when something is stale."""
    parser = argparse.ArgumentParser(prog="python -m ollama_fleet.api.generate", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing, name what is stale")
    options = parser.parse_args(arguments)
    stale = [path for path, text in outputs() if _read(options.root / path) != text]
    if options.check:
        for path in stale:
            sys.stderr.write(f"{path} is stale: run `make generate`\n")
        return 1 if stale else 0
    for path, text in outputs():
        (options.root / path).parent.mkdir(parents=True, exist_ok=True)
        (options.root / path).write_text(text)
    sys.stderr.write(f"{len(stale)} files changed\n")
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _yaml(document: Any) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, width=120, allow_unicode=True)
    return text


if __name__ == "__main__":
    sys.exit(main())
