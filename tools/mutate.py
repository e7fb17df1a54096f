"""Change one thing in a source file, run its tests, say whether they notice; one change after the other.

    python tools/mutate.py src/monopose/evaluation/scores.py tests/evaluation/test_errors.py --sample 20

Changes are an operator, a comparison, a sign, a number or a condition. The file is never touched: a copy of src stands before
it on the path. Survivors are printed with their line, for people to judge.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.AST) -> list[tuple[ast.AST, str]]:
    """What can be changed: a node, and which of its fields."""
    found: list[tuple[ast.AST, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in SWAPS:
            found.append((node, "op"))
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            found.append((node, "ops"))
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            found.append((node, "value"))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
            found.append((node, "operand"))
    return found


def change(node: ast.AST, field: str) -> None:
    if isinstance(node, (ast.BinOp, ast.BoolOp)):
        node.op = SWAPS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Compare):
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node, ast.Constant):
        node.value += 1  # type: ignore[operator]
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        node.operand = node.operand if isinstance(node.op, ast.UAdd) else ast.UnaryOp(ast.Not(), node.operand)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=20)
    parser.add_argument("--lines", type=int, nargs="*", help="only changes in these lines")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    text = args.source.read_text(encoding="utf-8")
    all_places = [k for k, (n, _) in enumerate(places(ast.parse(text))) if not args.lines or n.lineno in args.lines]  # type: ignore[attr-defined]
    chosen = random.Random(args.seed).sample(all_places, min(args.sample, len(all_places)))
    killed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "src"
        shutil.copytree("src", copy)
        target = copy / args.source.relative_to("src")
        for k in chosen:
            tree = ast.parse(text)
            node, field = places(tree)[k]
            before, line = ast.unparse(node), node.lineno  # type: ignore[attr-defined]
            change(node, field)
            target.write_text(ast.unparse(ast.fix_missing_locations(tree)), encoding="utf-8")
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *args.tests]
            path = f"{copy}:{os.environ.get('PYTHONPATH', '')}"
            try:
                code = subprocess.run(
                    command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, timeout=300
                ).returncode
            except subprocess.TimeoutExpired:
                code = 1  # it hangs, which somebody would notice
            killed += code != 0
            print(f"{'killed  ' if code else 'SURVIVED'} {args.source}:{line}: {before} -> {ast.unparse(node)}", flush=True)
    print(f"{killed} of {len(chosen)} killed ({len(all_places)} changes are possible)")


if __name__ == "__main__":
    main()
