"""Simulated nodes: kwok plays the kubelet of nodes that do not exist, with stages of our own.

kwok's default stages set every readiness gate to True, so a test of a gate could not fail on them. Ours never touch a
gate: a pod becomes Ready when its containers are and all its gates say True, as with a real kubelet.

A pod's behaviour is chosen by annotations: ``testbed.ollamafleet.io/init-for`` is how long its init containers take,
``testbed.ollamafleet.io/run-for`` how long a Job's pod runs (Go durations such as ``1500ms``; neither waits by
default).
"""

from testbed.kwok.nodes import LABEL, SimulatedNodes

__all__ = ["LABEL", "SimulatedNodes"]
