"""A driver without GPUs: ``nvidia-ml-py`` loads this ``libnvidia-ml.so.1`` and reads GPUs from a file.

The file may be replaced at any time: the next call sees it. ``environment`` is what a process needs to use it.
"""

from testbed.fakes.nvml.location import environment, library
from testbed.fakes.nvml.state import GIB, MIB, Driver, Gpu, Mig, Process, Xid, eight, write

__all__ = ["GIB", "MIB", "Driver", "Gpu", "Mig", "Process", "Xid", "eight", "environment", "library", "write"]
