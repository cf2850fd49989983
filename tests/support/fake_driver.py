"""The fake driver library inside the test's own process."""

import ctypes
from pathlib import Path

import pytest

from testbed.fakes import nvml


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Have ``nvidia-ml-py`` find the fake; returns the file that drives it."""
    # A library that is loaded already is found by its soname, wherever it came from.
    ctypes.CDLL(str(nvml.library()), mode=ctypes.RTLD_GLOBAL)
    state = folder / "driver"
    monkeypatch.setenv("FAKE_NVML_STATE", str(state))
    return state
