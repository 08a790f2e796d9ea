"""Mutation testing: which changes of a module do its tests not notice?

    python tests/nightly/mutate.py mvx_logger/policy.py tests/unit/test_policy.py [more tests] [--sample 80] [--seed 9]

A copy of the repository gets one small change at a time: a comparison moves its boundary, a condition is negated, a number
grows or shrinks by one, a statement goes. Then the tests run until the first failure. Each change that survives is printed
as a diff: a test is missing, the line does nothing, or nobody could see the difference.
"""

from __future__ import annotations

import argparse
import ast
import copy
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist")
NAMES = "Lt LtE Gt GtE Eq NotEq Is IsNot In NotIn And Or Add Sub Mult FloorDiv Div Mod BitAnd BitOr"
KINDS = [getattr(ast, name) for name in NAMES.split()]
SWAPS = dict(zip(KINDS, [KINDS[index ^ 1] for index in range(len(KINDS))], strict=True))
REMOVABLE = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.Delete, ast.Continue, ast.Break)


def mutate(node: ast.AST, inside: bool = False) -> Iterator[ast.AST]:
    """Every copy of the tree with one change. Annotations, docstrings and a module's own statements stay."""
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    match node:
        case ast.Compare() if type(node.ops[0]) in SWAPS:
            yield changed(node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]])
        case ast.BoolOp() | ast.BinOp() | ast.AugAssign() if type(node.op) in SWAPS:
            yield changed(node, "op", SWAPS[type(node.op)]())
        case ast.Constant(value=bool()):
            yield changed(node, "value", not node.value)
        case ast.Constant(value=int()):
            yield from (changed(node, "value", node.value + step) for step in (1, -1))
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.If() | ast.While() | ast.IfExp() if not isinstance(node.test, ast.Compare | ast.UnaryOp):
            yield changed(node, "test", ast.UnaryOp(ast.Not(), node.test))
        case ast.Return() if node.value is not None and not isinstance(node.value, ast.Constant):
            yield changed(node, "value", ast.Constant(None))
    if inside and isinstance(node, REMOVABLE) and not isinstance(getattr(node, "value", None), ast.Constant):
        yield ast.Pass()
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        if isinstance(value, ast.AST):
            yield from (changed(node, field, other) for other in mutate(value, inside))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, ast.AST):
                    for other in mutate(item, inside):
                        yield changed(node, field, [*value[:index], other, *value[index + 1 :]])


def changed(node: ast.AST, field: str, value: object) -> ast.AST:
    node = copy.copy(node)
    setattr(node, field, value)
    return node


def passes(directory: Path, tests: list[str], seconds: float) -> bool:
    """Run the tests; where they take too long, they have noticed the change, too."""
    environment = {**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
    command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
    try:
        return not subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, timeout=seconds
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module")
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--sample", type=int, default=80, help="how many changes, drawn at random (default 80)")
    parser.add_argument("--seed", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "copy")
        shutil.copytree(ROOT, directory, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist"))
        target = directory / options.module
        tree = ast.parse(target.read_text())
        original = ast.unparse(tree)
        target.write_text(original)
        begun = time.monotonic()
        if not passes(directory, options.tests, 3600):
            sys.exit("the tests fail without any change")
        seconds = 5 + 2 * (time.monotonic() - begun)
        found = [ast.unparse(ast.fix_missing_locations(mutant)) for mutant in mutate(tree)]
        chosen = random.Random(options.seed).sample(found, min(options.sample, len(found)))
        killed = 0
        for mutant in chosen:
            target.write_text(mutant)
            if passes(directory, options.tests, seconds):
                print(
                    *list(difflib.unified_diff(original.split("\n"), mutant.split("\n"), n=2, lineterm=""))[2:],
                    sep="\n",
                )
            else:
                killed += 1
        print(f"{options.module}: {killed} of {len(chosen)} changes are noticed (of {len(found)} possible)")


if __name__ == "__main__":
    main()
