"""Benchmarks: figures, where there is a baseline beside one of the same run; those of the agent are its goals.

``python -m benchmarks NAME [--quick] [--json FILE]``. Tests assert the errors of ``sizing``, which are the same on any
machine, and no times.
"""
