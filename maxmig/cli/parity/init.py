"""`maxmig parity init`: a parity test and a CI job for a user's own repository."""

import argparse
import re
from pathlib import Path

from maxmig import errors
from maxmig.cli import console
from maxmig.cli.verb import Verb

_TEST = '''"""Parity of {name}: the NNX module computes what the Linen module computes.

Written by `maxmig parity init --pair {spec}`; yours to edit. Run it with pytest.
"""

import pytest

pair = pytest.mark.parametrize("maxmig_pair", ["{spec}"], indirect=True)


@pair
def test_each_weight_has_one_counterpart(maxmig_pair):
    maxmig_pair.check("mapping")


@pair
@pytest.mark.parametrize("check", {checks})
def test_equal(maxmig_pair, check):
    maxmig_pair.check(check)


@pair
def test_verdict(maxmig_pair):
    report = maxmig_pair.report
    assert report, report.summary
'''

_CI = """# Parity of Linen and NNX on every push. Written by `maxmig parity init`; yours to edit.
name: parity
on: [push, pull_request]
jobs:
  parity:
    runs-on: ubuntu-latest
{defaults}    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - run: pip install maxmig pytest -e .  # maxmig from where you have it
      - run: python -m pytest {test}
        env:
          JAX_PLATFORMS: cpu
      - run: maxmig parity run --pair {spec} --run-dir parity
        if: always()
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: parity
          path: {within}parity
"""

_DEFAULTS = """    defaults:
      run:
        working-directory: {folder}
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pair",
        required=True,
        metavar="PKG.MODULE:FUNCTION",
        help="a function that takes nothing and returns (linen_module, nnx_module, inputs)",
    )
    parser.add_argument(
        "--dir", default=".", metavar="DIR", help="the repository (default: this folder)"
    )
    parser.add_argument("--force", action="store_true", help="write over files that are there")


def run(args: argparse.Namespace) -> int:
    """Compares the pair once, and writes a test of what was compared."""
    root = Path(args.dir)
    name = re.sub(r"\W+", "_", args.pair.partition(":")[2]) or "pair"
    if not root.is_dir():
        raise errors.ConfigError(f"--dir {root}: expected a folder")
    test = Path("tests") / f"test_parity_{name}.py"
    top, folder = _repository(root)
    ci = top / ".github" / "workflows" / "parity.yml"
    there = [path for path in (root / test, ci) if path.exists()]
    if there and not args.force:
        raise errors.PreflightError(f"{there[0]}: is there already; --force writes over it")
    from maxmig.parity import pairs

    report = pairs.run(args.pair, levels=("L2",), note=console.note)
    made = [c.name for c in report.checks if c.level == "native"]
    checks = ", ".join(f'"{check}"' for check in made or ["outputs"])
    texts = {
        root / test: _TEST.format(name=name, spec=args.pair, checks=f"[{checks}]"),
        ci: _CI.format(
            spec=args.pair,
            test=test.as_posix(),
            defaults=_DEFAULTS.format(folder=folder) if folder else "",
            within=f"{folder}/" if folder else "",
        ),
    }
    for path, text in texts.items():
        _write(path, text)
    if args.json:
        console.emit_json({"files": list(texts), "verdict": report.verdict.value})
    else:
        for path in texts:
            console.out(f"{'wrote':<10} {path}")
        console.out(f"{'now':<10} {report.verdict.value}: {report.summary}")
        console.out(f"{'run':<10} python -m pytest {test}")
    return 0


def _repository(root: Path) -> tuple[Path, str]:
    """Where GitHub looks for workflows, and the folder below it; `root` itself without a .git."""
    real = root.resolve()
    for depth, folder in enumerate((real, *real.parents)):
        if (folder / ".git").exists():
            up = root.joinpath(*[".."] * depth)
            return up, real.relative_to(folder).as_posix() if depth else ""
    return root, ""


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.DataError(f"{path}: expected to write there, but: {error}") from error


VERB = Verb(
    name="init",
    help="write a parity test and a CI job for two modules of your own",
    examples=(
        "maxmig parity init --pair my_package.migration:mlp",
        "maxmig parity init --pair my_package.migration:mlp --dir ../my_repository --force",
    ),
    add_arguments=_add_arguments,
    run=run,
)
