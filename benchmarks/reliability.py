"""The figures of docs/reliability.md: broken inputs tried, faults survived, what a large photo costs.

    python -m benchmarks.reliability [--inputs 5000] [--only faults] [--cases shared/cases] [--crops]

Runs the tests in tests/fuzz and tests/faults from the root of a checkout and prints how many inputs and faults there were and
how many of them went wrong. With --cases, a folder of inputs that went wrong once, each with what it should give
(tests/test_shared_cases.py); with --crops also seconds and memory of photos up to 50 megapixels (`benchmarks.photo --crops`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def tried(name: str, variables: dict[str, str]) -> tuple[int, int, float]:
    """Tests of a file or folder of tests: how many, how many of them failed, seconds."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"tests/{name}"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=False)
        suite = ElementTree.parse(report).getroot()[0].attrib
    bad = int(suite["failures"]) + int(suite["errors"])
    if bad:
        print(done.stdout, file=sys.stderr)
    return int(suite["tests"]) - int(suite["skipped"]), bad, float(suite["time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="broken inputs, over all readers")
    parser.add_argument("--only", choices=("fuzz", "faults"), help="of these two; both by default")
    parser.add_argument("--cases", type=Path, help="folder of inputs that went wrong once, too")
    parser.add_argument("--crops", action="store_true", help="seconds and memory of photos up to 50 megapixels, too")
    args = parser.parse_args()
    print("| what | tests | failed | s |\n|---|---|---|---|")
    parts = {
        "fuzz": (f"{args.inputs} broken inputs, by reader", {"MONOPOSE_FUZZ": str(args.inputs)}),
        "faults": ("kill, full disk, two at once, Ctrl-C", {}),
    }
    if args.only:
        parts = {args.only: parts[args.only]}
    if args.cases:
        parts["test_shared_cases.py"] = ("situations that went wrong once", {"MONOPOSE_CASES": str(args.cases.resolve())})
    for name, (what, variables) in parts.items():
        count, bad, seconds = tried(name, variables)
        print(f"| {what} (`tests/{name}`) | {count} | {bad} | {seconds:.0f} |", flush=True)
    if args.crops:
        from . import photo

        photo.crops()


if __name__ == "__main__":
    main()
