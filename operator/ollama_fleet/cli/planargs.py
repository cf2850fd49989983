"""Options of ``kubectl ollama plan``; apart from the command, so that ``--help`` imports nothing heavy."""

import argparse

DESCRIPTION = """\
What the operator would make of a wish on given GPUs: groups, memory, settings with their reasons, and for what does
not fit the nearest change that would. Needs no cluster."""
EPILOG = """\
exit status: 0 everything fits, 2 something does not, 1 it cannot be told

examples:
  kubectl ollama plan llama3.1:8b --context 32k --parallel 4 --gpu 24Gi
  kubectl ollama plan ./model.gguf --gpu-product L4
  kubectl ollama plan -f modelset.yaml -f deployment.yaml --gpu 80Gi --servers 3"""
_CACHES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("model", nargs="?", help="a model of a registry, or the path of a GGUF file")
    parser.add_argument("-f", "--file", action="append", default=[], help="manifests; may be repeated")
    gpu = parser.add_mutually_exclusive_group()
    gpu.add_argument("--gpu", metavar="24Gi[xN]", help="memory of a card, and how many a server gets")
    gpu.add_argument("--gpu-product", metavar="L4[xN]", help="a product, e.g. T4, L4, A100-80GB, H100")
    parser.add_argument("--servers", type=int, default=1, help="servers that the nodes have room for (default: 1)")
    parser.add_argument("--context", help="tokens per slot of the model, e.g. 32k")
    parser.add_argument("--parallel", type=int, help="slots of the model")
    parser.add_argument("--kv", choices=_CACHES, metavar="TYPE", help=f"type of the KV cache: {', '.join(_CACHES)}")
    parser.add_argument("--ollama", metavar="VERSION", help="e.g. 0.24.0 (default: the newest tested)")
    parser.add_argument("--offline", action="store_true", help="use the bundled catalogue instead of registries")
    parser.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
