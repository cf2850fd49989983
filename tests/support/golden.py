"""Agreed texts in ``tests/golden``."""

from difflib import unified_diff
from pathlib import Path

import pytest

from testbed.paths import ROOT

GOLDEN = ROOT / "tests/golden"


def agree(actual: str, name: str, request: pytest.FixtureRequest) -> None:
    """Fail with the difference to ``tests/golden/<name>`` and the way out of it; ``--update-golden`` writes it anew."""
    file: Path = GOLDEN / name
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(actual)
    agreed = file.read_text() if file.exists() else ""
    if actual != agreed:
        lines = (text.splitlines(keepends=True) for text in (agreed, actual))
        difference = "".join(unified_diff(*lines, str(file), "now"))
        remedy = f"pytest {request.node.path.relative_to(ROOT)} --update-golden, and review the difference"
        pytest.fail(f"{name} is not what it was. If that is meant: {remedy}.\n{difference}", pytrace=False)
