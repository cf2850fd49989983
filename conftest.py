"""Fixtures for every test: the levels of the test bed."""

pytest_plugins = ["testbed.pytest_plugin"]
