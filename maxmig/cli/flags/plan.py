"""`maxmig flags plan`: what would change on the way to a rung, and what is dangerous in it."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.flags import framework
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.rollout.plan import Change, FilePlan, Plan

# The rungs of maxmig.config.Stage, which is too heavy to import for --help; a test compares them.
RUNGS = ("linen", "bridged-decoder", "bridged", "hybrid", "nnx")
_SIGNS = {"replace": "~", "add": "+", "remove": "-"}


def run(args: argparse.Namespace) -> int:
    """Prints the plan, and writes it if asked; 5 if a danger blocks it, 6 on request."""
    names = framework.split_configs(args.configs, args.overrides)
    chosen = framework.choice(args)
    from maxmig.config import Stage
    from maxmig.rollout import plan as planning

    made = planning.make(names, Stage(args.to), chosen, direct=args.direct)
    if args.output:
        made.write(Path(args.output))
    if args.json:
        console.emit_json(made.document() | {"written_to": args.output})
    else:
        _print(made, args.output)
    if made.blocked:
        return ExitCode.REFUSED
    return ExitCode.PENDING if args.exit_code and made.pending else ExitCode.PASS


def _print(made: "Plan", output: str | None) -> None:
    from maxmig.rollout.era import Era

    heads = {}
    for file in made.files:
        name = "MaxText" if file.framework["name"] == "maxtext" else file.framework["name"]
        era = Era(file.framework["era"]).text
        heads[f"{name} {file.framework['version']}".strip()] = era
    for title, era in heads.items():
        console.out(f"{title}: {era}")
    for file in made.files:
        _print_file(file)
    todo, blocked = len(made.pending), len(made.blocked)
    count = f"{len(made.files)} file{'s' if len(made.files) > 1 else ''}"
    console.out(f"\n{count}: {todo} to change, {blocked} blocked. No configuration was touched.")
    if todo and output:
        _print_next(made, output)
    elif todo:
        console.note("keep it with -o plan.json, to apply exactly this")
    if made.goal != made.files[0].candidate and any(file.left for file in made.files):
        console.note("one rung at a time; --direct goes to the goal at once")


def _print_file(file: "FilePlan") -> None:
    control = file.control or "a contradiction"
    if not file.changes and file.control == file.candidate:
        way = f"{file.candidate}: nothing to change"
    else:
        way = f"{control} -> {file.candidate}"
    then = f"  (then {', '.join(file.left)})" if file.left else ""
    console.out(f"\n{file.path}   {way}{then}")
    for change in file.changes:
        console.out(f"  {_SIGNS[change.action]} {_told(change)}")
    for danger in file.dangers:
        console.out(f"  ! {danger.severity.value.upper()}: {danger.place}: {danger.text}")
        console.out(f"    safe way: {danger.safe}")
    for note in file.notes:
        console.out(f"    note: {note}")


def _told(change: "Change") -> str:
    force = "true" if change.before else "false" if change.before is not None else "no boolean"
    if change.action == "add":
        return f"{'':>4} {change.key}: {change.new}   (in force now: {force}, {change.origin})"
    other = "" if (change.old or "").lower() == force else f"   (in force: {change.origin})"
    return f"{change.line:>4} {change.key}: {change.old or '(empty)'} -> {change.new}{other}"


def _print_next(made: "Plan", output: str) -> None:
    """How to show parity, where maxmig can load the file, and how to apply the plan."""
    from maxmig.rollout import evidence

    asked = [file for file in made.pending if file.needs_evidence]
    without = {file.path: evidence.unloadable(Path(file.path), file.candidate) for file in asked}
    for file in asked:
        if without[file.path]:
            console.out(f"no card:  {file.path}: {without[file.path]}")
        elif file.control and file.framework["name"] == "maxmig":
            command = evidence.parity_command(file.path, file.control, file.candidate)
            console.out(f"evidence: {command}")
    card = " --card parity" if not all(without.values()) else ""
    assured = ' --assured "how you compared them yourself"' if any(without.values()) else ""
    console.out(f"apply it: maxmig flags apply {shlex.quote(output)}{card}{assured}")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="+", help="YAML files to flip")
    parser.set_defaults(overrides=[])
    parser.add_argument("--to", choices=RUNGS, required=True, help="the rung to reach in the end")
    parser.add_argument("-o", "--output", metavar="PLAN", help="write the plan, a JSON file")
    parser.add_argument(
        "--direct", action="store_true", help="all the way in one step, not one rung"
    )
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 6 if something is to be changed"
    )
    framework.add_arguments(parser)


VERB = Verb(
    name="plan",
    help="what would change on the way to a rung, and what is dangerous in it; touches nothing",
    examples=(
        "maxmig flags plan --to nnx configs/demo.yml",
        "maxmig flags plan --to linen --direct configs/demo_nnx.yml --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
