"""`maxmig parity run`: checks that two rungs compute the same, and writes the evidence."""

import argparse
import itertools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.parity import pairs as own
from maxmig.cli.parity import terminal
from maxmig.cli.parity.common import add_sides, count
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.config import Config
    from maxmig.parity import Report
    from maxmig.parity.reports.parts import Part

_DTYPES = ("float32", "bfloat16", "float16")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser, optional="this or --pair is needed")
    own.add_arguments(parser)
    add_sides(parser)
    parser.add_argument(
        "--ladder",
        action="store_true",
        help="all five rungs: each against its neighbour, and the ends",
    )
    parser.add_argument(
        "--level",
        default="L0,L1,L2",
        metavar="LEVELS",
        help="L0 proof, L1 float64, L2 real arrays, L3 behaviour, or all (default: L0,L1,L2)",
    )
    parser.add_argument(
        "--only", metavar="CHECKS", help="only these checks, for example logits,gradients"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="weights and optimizer state for both sides, in any layout "
        "(default: initialised once, from the seed)",
    )
    parser.add_argument("--dtype", choices=_DTYPES, help="compute in this type instead")
    parser.add_argument(
        "--steps",
        type=count,
        default=5,
        metavar="N",
        help="optimizer steps to compare (default: 5; 0 leaves them out)",
    )
    parser.add_argument(
        "--tokens",
        type=common.positive,
        metavar="N",
        help="one more batch of unbroken rows of N tokens, for faults that grow with the distance",
    )
    _add_judgement(parser)


def _add_judgement(parser: argparse.ArgumentParser) -> None:
    """What counts as equal, and where it is written."""
    parser.add_argument(
        "--policy",
        choices=("auto", "bitwise", "ratio"),
        default="auto",
        help="what counts as equal (default: bitwise for float32 on the CPU, else the ratio of "
        "errors against float64)",
    )
    parser.add_argument(
        "--noise", metavar="FILE", help="the control's noise, from `maxmig parity noise`"
    )
    parser.add_argument(
        "--gate-performance",
        type=_ratio,
        metavar="RATIO",
        help="fail if a step of the candidate takes more than RATIO times the time or memory",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="where to write the run (default: the next number in <output>/parity)",
    )
    parser.add_argument(
        "--report", metavar="PATH", help="write the page there too: a .html file, or a folder"
    )
    parser.add_argument(
        "--allow-same",
        action="store_true",
        help="let control and candidate be the same rung, to measure noise",
    )


def run(args: argparse.Namespace) -> int:
    """Compares, prints what was found, and writes the run's folder."""
    own.check(args)
    cfg = None if args.pair else common.load_config(args)
    if cfg is not None and args.dtype:
        cfg = cfg.replace(dtype=args.dtype)
    from maxmig import parity
    from maxmig.parity import levels
    from maxmig.parity.pages import folder

    levels.parse(args.level)  # refused before a folder is made
    if args.ladder and args.report:
        raise errors.ConfigError("--report writes one page; with --ladder give --run-dir instead")
    page = parity.html.destination(args.report) if args.report else None
    if args.run_dir:
        place = folder.prepare(args.run_dir)
    else:
        output = "maxmig_output" if cfg is None else cfg.run.base_output_directory
        place = folder.numbered(Path(output) / "parity")
    if cfg is not None and args.ladder:
        return _ladder(args, cfg, place)
    sides = (args.control, args.candidate)
    report = own.compare(args) if cfg is None else _compare(args, cfg, *sides)
    folder.write(report, place)
    if page is not None:
        parity.html.write(report, page)
    if args.json:
        console.emit_json(report.document() | {"run_dir": place, "report": page or place})
    else:
        terminal.show(report)
    if page is not None:
        console.note(f"report: {page}")
    console.note(f"run: {place}: {', '.join(folder.FILES)}")
    return report.exit_code


def _compare(args: argparse.Namespace, cfg: "Config", control: str, candidate: str) -> "Report":
    from maxmig import parity
    from maxmig.parity import levels
    from maxmig.parity.rungs import request

    options: dict[str, Any] = {}
    if args.noise:
        options["noise"] = request.read_noise(args.noise)
    return parity.run(
        cfg,
        control=control,
        candidate=candidate,
        checkpoint=args.checkpoint,
        steps=args.steps,
        levels=levels.parse(args.level),
        only=levels.parse_only(args.only) if args.only else (),
        tokens=args.tokens,
        policy=args.policy,
        gate_performance=args.gate_performance,
        allow_same=args.allow_same,
        config_name=args.config,
        command=_command(args, control, candidate),
        note=console.note,
        **options,
    )


def _ladder(args: argparse.Namespace, cfg: "Config", place: Path) -> int:
    """Each rung against its neighbour, and the ends; a folder each, named after both rungs."""
    from maxmig.config import LADDER
    from maxmig.parity.pages import folder

    names = [stage.value for stage in LADDER]
    pairs = [*itertools.pairwise(names), (names[0], names[-1])]
    reports: dict[str, Report] = {}
    for control, candidate in pairs:
        console.note(f"{control} against {candidate}")
        name = f"{control}_{candidate}"
        reports[name] = _compare(args, cfg, control, candidate)
        folder.write(reports[name], place / name)
    codes = [report.exit_code for report in reports.values()]
    code = 1 if 1 in codes else max(codes)
    if args.json:
        runs = {name: report.document() for name, report in reports.items()}
        console.emit_json({"exit_code": code, "run_dir": place, "runs": runs})
    else:
        _print_ladder(reports, {0: "PASS", 1: "FAIL"}.get(code, "INCONCLUSIVE"))
    console.note(f"run: {place}: a folder for each pair")
    return code


def _print_ladder(reports: Mapping[str, "Report"], verdict: str) -> None:
    codes = dict.fromkeys(part.code for r in reports.values() for part in r.by_level)
    rows = []
    for r in reports.values():
        told = {part.code: _short(part) for part in r.by_level}
        words = console.status(r.verdict.value)
        rows.append((r.control.asked, r.candidate.asked, words, *(told.get(c, "") for c in codes)))
    console.out(console.table(("control", "candidate", "verdict", *codes), rows))
    for name, r in reports.items():
        for text in () if r else r.reasons:
            console.out(f"{name.replace('_', ' against ')}: {text}")
    agree = sum(map(bool, reports.values()))
    console.out(console.status(verdict), f"{agree} of {len(reports)} pairs of rungs agree")


def _short(part: "Part") -> str:
    """What a level found, in few words."""
    from maxmig.parity.findings import words

    if part.verdict.value != "PASS":
        return part.verdict.value
    proofs = [c.details for c in part.checks if c.level == "static"]
    if proofs:
        return f"{words.counted(sum(len(p.proved) for p in proofs), 'output')} proved"
    if part.level == "semantic":
        outputs = [e for c in part.checks for e in c.details.errors]
        worst = max(e.relative for e in outputs)
        return f"{len(outputs)} {f'within {worst:.0e}' if worst else 'equal'}"
    held = [c for c in part.checks if c.level != "settings" and c.concluded is None]
    arrays = words.counted(sum(c.arrays for c in held), "array")
    return f"{arrays} {'bit for bit' if all(c.exact for c in held) else 'agree'}"


def _command(args: argparse.Namespace, control: str, candidate: str) -> str:
    """The command line that repeats the run, every choice written out."""
    words = ["maxmig", "parity", "run", args.config, "--control", control]
    words += ["--candidate", candidate, "--level", args.level, "--steps", str(args.steps)]
    for name in ("checkpoint", "only", "dtype", "tokens", "noise", "gate_performance"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if args.policy != "auto":
        words += ["--policy", args.policy]
    if args.allow_same:
        words.append("--allow-same")
    if args.simulate_devices:
        words += ["--simulate-devices", str(args.simulate_devices)]
    return shlex.join([*words, *args.overrides])


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, such as 1.1, got {text!r}")
    return value


VERB = Verb(
    name="run",
    help="two rungs, level by level: a proof, float64, real arrays, behaviour",
    examples=(
        "maxmig parity run configs/tiny_llama2.yml --run-dir maxmig_output/parity/first",
        "maxmig parity run configs/tiny_gpt3.yml --candidate hybrid --level L0,L2 --steps 2 --json",
        "maxmig parity run configs/demo.yml --level all --tokens 512 --dtype bfloat16",
        "maxmig parity run --pair my_package.migration:mlp --save-mapping mlp.yml",
    ),
    add_arguments=_add_arguments,
    run=run,
)
