"""`maxmig bench train`: speed and memory of Linen, NNX and plain JAX, measured side by side."""

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import bench_convert, bench_parity, common, console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.benchmarks.results import CaseResult, Growth, Judged
    from maxmig.benchmarks.train import Plan

NAME = "bench"
HELP = "speed and memory of the backends, as ratios"

_CASES = "medium,tiny,tiny-unscanned"
_CANDIDATES = "linen,nnx,pure"


def train(args: argparse.Namespace) -> int:
    """Measures, prints a table for each case as soon as it is there, and judges."""
    plan = _plan(args)
    from maxmig.benchmarks import report, results
    from maxmig.benchmarks import train as bench

    facts = bench.machine()
    console.out(report.machine(facts))
    cases: list[CaseResult] = []
    growths: list[Growth] = []
    try:
        with console.LiveLine() as line:
            for case in plan.cases:
                cases.append(bench.run_case(plan, case, line.update))
                line.close()
                console.out(report.case(cases[-1]))
            if plan.growth:
                growths.extend(bench.growths(line.update))
                line.close()
                console.out(report.growth(growths))
    except KeyboardInterrupt as stop:
        done = ", ".join(case.name for case in cases) or "none"
        raise errors.Interrupted(
            f"interrupted; finished cases: {done}. Nothing was written; start again with --cases"
        ) from stop
    judged = results.judge(cases, growths)
    if judged:
        console.out(report.targets(judged))
    if args.json:
        console.emit_json(_document(facts, cases, growths, judged))
    return _exit_code(judged) if args.check else ExitCode.PASS


def _plan(args: argparse.Namespace) -> "Plan":
    if args.check and (args.quick or (args.steps is not None and args.steps < 20)):
        raise errors.ConfigError("--check judges at least 20 steps: leave --quick out")
    common.setup_devices(args.simulate_devices)
    from maxmig.benchmarks import programs
    from maxmig.benchmarks.train import Plan

    overrides = [word for word in (*args.configs, *args.overrides) if "=" in word]
    files = [word for word in args.configs if "=" not in word]
    default = "tiny" if args.quick else _CASES
    candidates = args.candidates.split(",")
    unknown = sorted(set(candidates) - set(programs.CANDIDATES))
    if unknown or len(set(candidates)) != len(candidates):
        raise errors.ConfigError(
            f"--candidates: expected different ones of {_CANDIDATES}, got {args.candidates!r}"
        )
    plain = not files and not overrides and args.cases is None
    plan = Plan(
        cases=programs.cases((args.cases or default).split(","), files, overrides),
        candidates=candidates,
        steps=args.steps or (5 if args.quick else None),
        repeats=0 if args.quick else args.repeats,
        growth=plain and not args.quick,
    )
    for case in plan.cases:  # what is wrong should show before minutes have passed
        for candidate in candidates:
            case.load(candidate)
    return plan


def _document(
    facts: dict[str, Any],
    cases: "list[CaseResult]",
    growths: "list[Growth]",
    judged: "list[Judged]",
) -> dict[str, Any]:
    from maxmig.benchmarks import results

    return {
        "machine": facts,
        "cases": {case.name: results.document(case) for case in cases},
        "compile_growth": growths,
        "targets": [dataclasses.asdict(j) | {"verdict": j.verdict} for j in judged],
    }


def _exit_code(judged: "list[Judged]") -> ExitCode:
    verdicts = {j.verdict for j in judged}
    if "FAIL" in verdicts:
        return ExitCode.DIFFERENCE
    if "INCONCLUSIVE" in verdicts or "PASS" not in verdicts:
        return ExitCode.INCONCLUSIVE
    return ExitCode.PASS


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "configs",
        metavar="CONFIG",
        nargs="*",
        help="configurations to measure instead of the cases, and key=value settings for all",
    )
    parser.add_argument("--cases", metavar="NAMES", help=f"built-in cases (default {_CASES})")
    parser.add_argument(
        "--candidates",
        metavar="NAMES",
        default=_CANDIDATES,
        help="what is compared (default %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=common.positive,
        metavar="N",
        help="timed steps of each candidate (default: as many as take a minute or two, 24 or more)",
    )
    parser.add_argument(
        "--repeats",
        type=common.positive,
        metavar="N",
        default=3,
        help="fresh processes in which compile time and memory are measured (default %(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when a target is missed, 3 when noise hides it"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of the tiny case, to see that it runs"
    )
    common.add_device_arguments(parser)
    parser.set_defaults(overrides=[])


VERBS = (
    Verb(
        name="train",
        help="time and memory of a training step: Linen, NNX and plain JAX side by side",
        examples=(
            "maxmig bench train --quick",
            "maxmig bench train --cases tiny,tiny-unscanned --steps 100 --check",
            "maxmig bench train configs/demo.yml --candidates linen,nnx --json",
        ),
        add_arguments=_arguments,
        run=train,
    ),
    bench_convert.VERB,
    bench_parity.VERB,
)
