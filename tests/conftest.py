"""Options of the tests, and of Hypothesis."""

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's business.
settings.register_profile("ollama-fleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ollama-fleet")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Agreed files can be written anew."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew from what is rendered")
