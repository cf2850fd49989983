"""Options of ``kubectl ollama plan``; apart from the command, so that ``--help`` imports nothing heavy."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("model", nargs="?", help="a model of a registry, or the path of a GGUF file")
    parser.add_argument("-f", "--file", type=Path, action="append", default=[], help="manifests; may be repeated")
    gpu = parser.add_mutually_exclusive_group(required=True)
    gpu.add_argument("--gpu", metavar="24Gi[xN]", help="memory of a card, and how many a server gets")
    gpu.add_argument("--gpu-product", metavar="L4[xN]", help="a product, e.g. T4, L4, A100-80GB, H100")
    parser.add_argument("--servers", type=int, default=1, help="servers that the nodes have room for (default: 1)")
    parser.add_argument("--context", help="tokens per slot, e.g. 32k")
    parser.add_argument("--parallel", type=int, help="slots")
    parser.add_argument("--kv", choices=("f16", "q8_0", "q4_0"), help="type of the KV cache")
    parser.add_argument("--ollama", help="version, e.g. 0.24.0 (default: the newest tested)")
    parser.add_argument("--offline", action="store_true", help="use the bundled catalogue instead of registries")
    parser.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
