"""Benchmarks: each measures its baseline in the same run and prints figures per unit and ratios.

``python -m benchmarks NAME [--quick] [--json FILE]``; no figure is ever asserted in a test.
"""
