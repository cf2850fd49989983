"""GPUs for a real node that has none: everything of a GPU node but the GPUs.

- a device plugin that the real kubelet registers: scheduling, allocation and PodResources are the real ones;
- what NVIDIA's container runtime does: containers that are given GPUs get the (fake) driver's library;
- a simulator that keeps the driver true to what runs: a server that has a model on a GPU, by its own claim, is a
  process with so many bytes there, under its real process number.

``NodeGpus`` brings all of it to a node. A test changes the hardware, also while it runs: a GPU is lost, hangs, is
split, or a program that nobody knows takes memory.
"""

from testbed.fakes.gpus.hardware import Hardware, cards
from testbed.fakes.gpus.node import RUNTIME_CLASS, NodeGpus

__all__ = ["RUNTIME_CLASS", "Hardware", "NodeGpus", "cards"]
