"""``python -m benchmarks NAME [--quick] [--json FILE]``."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.report import Report, machine

_NAMES: Final = {
    "agent": "memory, CPU and writes of the node agent with eight GPUs of a fake driver library",
    "card": "estimates of GPU memory against what the driver counts; needs an NVIDIA GPU and an Ollama that uses it",
    "operator": "from apply to Ready, memory and idle cost, against a stock kopf operator on simulated nodes",
    "planner": "placements a second, time of a plan, and packed memory against first fit and the optimum",
    "pull": "a model's download: the puller against `ollama pull`, from the same registry",
    "sizing": "estimates of GPU memory against measured loads and the rule of thumb",
    "relay": "a request and a streamed chunk through the sidecar against Ollama's fake directly",
}


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure, beside a baseline where there is one.",
        epilog="\n".join(f"  {name:<10} {text}" for name, text in _NAMES.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=[*_NAMES, "all"])
    parser.add_argument("--quick", action="store_true", help="less work, at most 45 s")
    parser.add_argument("--data", type=Path, help="sizing: a table of measured loads (default: tests/data)")
    parser.add_argument("--ollama", type=Path, help="card: the installed program (default: the test bed's, on CPU)")
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    options = parser.parse_args()
    chosen = [name for name in _NAMES if name != "card"] if options.name == "all" else [options.name]
    written: dict[str, Any] = {"machine": machine()}
    for name in chosen:
        options_of = {"data": options.data} if name == "sizing" and options.data else {}
        options_of |= {"ollama": options.ollama} if name == "card" else {}
        report: Report = importlib.import_module(f"benchmarks.{name}").run(quick=options.quick, **options_of)
        print(report.table())
        # One benchmark's keys stand beside the machine, those of all below their names.
        written |= {name: report.figures} if len(chosen) > 1 else report.figures
    if options.json:
        options.json.write_text(json.dumps(written, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
