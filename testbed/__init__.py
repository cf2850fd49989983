"""The test bed: a real Kubernetes with real nodes, a registry and real Ollama servers, on one machine.

Levels that start separately: binaries (``testbed.build``), control plane, simulated nodes (kwok), registry, images,
real nodes. ``python -m testbed --help`` lists the commands.
"""
