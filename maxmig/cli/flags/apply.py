"""`maxmig flags apply`: changes the files of a plan, on evidence."""

import argparse
from pathlib import Path

from maxmig.cli import console
from maxmig.cli.flags import outcome
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Applies a plan and prints the diff with its proof; 5 if it is refused."""
    from maxmig.errors import ConfigError
    from maxmig.rollout import apply, evidence
    from maxmig.rollout.plan import Plan

    if args.assured is not None and not args.assured.strip():
        raise ConfigError('--assured: expected a reason, for example --assured "soaked for a week"')
    age = evidence.age(args.max_age)
    plan = Plan.load(Path(args.plan))
    done = apply.apply(
        plan,
        [Path(card) for card in args.card],
        max_age=age,
        assured=args.assured,
        dry_run=args.dry_run,
        command=outcome.command(),
    )
    if args.json:
        console.emit_json(done.document())
        return 0
    outcome.show(done, nothing="nothing to change: the files are as the plan wants them")
    if done.entry and done.entry.overridden:
        console.out(f"assured: {done.entry.assured}; overridden and recorded:")
        for text in done.entry.overridden:
            console.out(f"  - {text}")
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", help="the file that `maxmig flags plan -o` wrote")
    parser.add_argument(
        "--card",
        metavar="PATH",
        action="append",
        default=[],
        help="card.yaml of a parity run, or the run's folder; give one for each configuration",
    )
    parser.add_argument(
        "--max-age",
        metavar="AGE",
        default="14d",
        help="how old a card may be: 14d, 36h, 90m (default: 14d)",
    )
    parser.add_argument(
        "--assured",
        metavar="REASON",
        help="go on without a card or in spite of a danger; the reason goes to the ledger",
    )
    parser.add_argument("--dry-run", action="store_true", help="check and show, write nothing")


VERB = Verb(
    name="apply",
    help="change the files of a plan, all or none, with a fresh card of parity",
    examples=(
        "maxmig flags apply plan.json --card maxmig_output/parity",
        'maxmig flags apply plan.json --assured "compared by hand, ticket 42" --dry-run',
    ),
    add_arguments=_add_arguments,
    run=run,
)
