"""The figures of docs/reliability.md: broken inputs tried, faults survived, what a large photo costs.

    python -m benchmarks.reliability [--inputs 5000] [--crops]

Runs the tests in tests/fuzz and tests/faults from the root of a checkout and prints how many inputs and faults there were and
how many of them went wrong; with --crops also seconds and memory of photos up to 50 megapixels (`benchmarks.photo --crops`).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def tried(folder: str, inputs: int) -> tuple[int, int, float]:
    """Tests of a folder of tests: how many, how many of them failed, seconds."""
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", f"tests/{folder}"]
        subprocess.run(
            command, cwd=ROOT, env=os.environ | {"MONOPOSE_FUZZ": str(inputs)}, stdout=subprocess.DEVNULL, check=False
        )
        suite = ElementTree.parse(report).getroot()[0].attrib
    bad = int(suite["failures"]) + int(suite["errors"])
    return int(suite["tests"]) - int(suite["skipped"]), bad, float(suite["time"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="broken inputs, over all readers")
    parser.add_argument("--crops", action="store_true", help="seconds and memory of photos up to 50 megapixels, too")
    args = parser.parse_args()
    print("| what | tests | failed | s |\n|---|---|---|---|")
    for folder, what in (
        ("fuzz", f"{args.inputs} broken inputs, by reader"),
        ("faults", "kill, full disk, two at once, Ctrl-C"),
    ):
        count, bad, seconds = tried(folder, args.inputs)
        print(f"| {what} (`tests/{folder}`) | {count} | {bad} | {seconds:.0f} |", flush=True)
    if args.crops:
        from . import photo

        photo.crops()


if __name__ == "__main__":
    main()
