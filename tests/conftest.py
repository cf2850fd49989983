"""Options of the tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Agreed files can be written anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what is rendered")
