"""`maxmig parity run`: checks that two backends compute the same, and reports it."""

import argparse
import shlex
from typing import TYPE_CHECKING

from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.parity import Report
    from maxmig.parity.results import Extreme

NAME = "parity"
HELP = "check that two backends agree, and report it"

# The rungs of maxmig.config.Stage, which is too heavy to import for --help; a test compares them.
RUNGS = ("linen", "bridged-decoder", "bridged", "hybrid", "nnx")


def _add_run(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser)
    parser.add_argument(
        "--control", choices=RUNGS, default="linen", help="the trusted rung (default: linen)"
    )
    parser.add_argument(
        "--candidate", choices=RUNGS, default="nnx", help="the rung to examine (default: nnx)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="weights and optimizer state for both sides, in any layout "
        "(default: initialised once, from the seed)",
    )
    parser.add_argument(
        "--steps",
        type=_count,
        default=5,
        metavar="N",
        help="optimizer steps to compare (default: 5; 0 leaves them out)",
    )
    parser.add_argument(
        "--report", metavar="PATH", help="write a page: a file that ends in .html, or a folder"
    )
    parser.add_argument(
        "--allow-same",
        action="store_true",
        help="let control and candidate be the same rung, to measure noise",
    )


def run(args: argparse.Namespace) -> int:
    """Runs both sides, prints what was compared, and writes the page."""
    cfg = common.load_config(args)
    from maxmig import parity

    page = parity.html.destination(args.report) if args.report else None
    report = parity.run(
        cfg,
        control=args.control,
        candidate=args.candidate,
        checkpoint=args.checkpoint,
        steps=args.steps,
        allow_same=args.allow_same,
        config_name=args.config,
        command=_command(args),
        note=console.note,
    )
    if page is not None:
        parity.html.write(report, page)
    if args.json:
        console.emit_json(report.document() | {"report": page})
    else:
        _print(report)
    if page is not None:
        console.note(f"report: {page}")
    return report.exit_code


def _print(report: "Report") -> None:
    from maxmig.parity.report import needs, number

    for name, side in (("control", report.control), ("candidate", report.candidate)):
        modules = ", ".join(side.modules)
        console.out(f"{name:<13} {side.proved:<16} proved from {side.state}; {modules}")
    console.out(f"{'model':<13} {report.subject.model}, {report.subject.parameters:,} parameters")
    if report.origin:
        o = report.origin
        console.out(f"{'weights':<13} {o.source}, step {o.step}, optimizer state {o.optimizer}")
    for i in report.inputs:
        shape = f"{i.rows} x {i.length}, {i.segments} segments, {i.padding} padding"
        console.out(f"{i.name + ' batch':<13} {shape}; {i.source}")
    console.out(f"{'policy':<13} {report.policy.text}")
    rows = [
        (
            check.name,
            console.status(check.verdict.value),
            f"{check.arrays:,}",
            f"{check.elements:,}",
            number(check.max_abs.value) if check.max_abs else "0" if check.exact else "-",
            number(check.max_rel.value) if check.max_rel else "0" if check.exact else "-",
            _where(check.max_abs),
            needs(check),
        )
        for check in report.checks
    ]
    columns = ("check", "verdict", "arrays", "numbers", "max abs", "max rel", "at", "tolerance")
    if rows:
        right = ("arrays", "numbers", "max abs", "max rel")
        console.out(console.table(columns, rows, right=right))
    _print_coverage(report)
    for note in report.notes:
        console.out(f"{'note':<13} {note}")
    if report.first_failure:
        for reason in report.reasons:
            console.out(f"{'difference':<13} {reason}")
    console.out(console.status(report.verdict.value), f"{report.summary}")


def _print_coverage(report: "Report") -> None:
    c = report.coverage
    if not report.checks:
        return
    console.out(f"{'coverage':<13} {c.gradients}/{c.parameters} gradients compared")
    listed = (
        ("zero gradients on both sides", c.zero_gradients),
        ("zero outputs on both sides", c.zero_outputs),
        ("parameters that no step moved", c.unmoved),
        ("not run", c.skipped),
        ("constants that got seeded noise", report.origin.nudged if report.origin else ()),
    )
    for title, paths in listed:
        if paths:
            console.out(f"{'':<13} {title} ({len(paths)}): {', '.join(paths)}")


def _where(extreme: "Extreme | None") -> str:
    return f"{extreme.item}: {extreme.place}" if extreme and extreme.value else ""


def _command(args: argparse.Namespace) -> str:
    """The command line that repeats the run, every choice written out."""
    words = ["maxmig", "parity", "run", args.config]
    words += ["--control", args.control, "--candidate", args.candidate]
    if args.checkpoint:
        words += ["--checkpoint", args.checkpoint]
    words += ["--steps", str(args.steps)]
    if args.report:
        words += ["--report", args.report]
    if args.allow_same:
        words.append("--allow-same")
    if args.simulate_devices:
        words += ["--simulate-devices", str(args.simulate_devices)]
    return shlex.join([*words, *args.overrides])


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return value


VERBS = (
    Verb(
        name="run",
        help="the same weights on two rungs: logits, loss, every gradient, optimizer steps",
        examples=(
            "maxmig parity run configs/tiny_llama2.yml --report maxmig_output/parity",
            "maxmig parity run configs/tiny_gpt3.yml --candidate hybrid --steps 2 --json",
        ),
        add_arguments=_add_run,
        run=run,
    ),
)
