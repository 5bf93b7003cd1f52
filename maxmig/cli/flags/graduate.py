"""`maxmig flags graduate`: removes the flags that say nothing any more."""

import argparse

from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.flags import framework, outcome
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Removes keys and prints the diff with its proof; 5 if a key asks for what is gone."""
    from maxmig.rollout import graduate

    names = framework.split_configs(args.configs, args.overrides)
    done = graduate.graduate(
        names,
        framework.choice(args),
        assured=args.assured,
        dry_run=args.dry_run,
        command=outcome.command(),
    )
    if args.json:
        console.emit_json(done.document())
    else:
        outcome.show(done.outcome, nothing="nothing to remove")
        for item in done.kept:
            console.out(f"kept: {item.place}: {item.key}: {item.reason}")
        for note in done.notes:
            console.note(f"note: {note}")
    pending = args.exit_code and args.dry_run and done.outcome.files
    return ExitCode.PENDING if pending else ExitCode.PASS


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="+", help="YAML files to clean")
    parser.set_defaults(overrides=[])
    parser.add_argument("--dry-run", action="store_true", help="show, write nothing")
    parser.add_argument(
        "--exit-code", action="store_true", help="with --dry-run: exit with 6 if keys would go"
    )
    parser.add_argument(
        "--assured",
        metavar="REASON",
        help="remove a key that asks for Linen where there is none; the reason goes to the ledger",
    )
    framework.add_arguments(parser)


VERB = Verb(
    name="graduate",
    help="remove the keys that equal the default, or that the framework no longer has",
    examples=(
        "maxmig flags graduate configs/demo_nnx.yml --dry-run",
        "maxmig flags graduate configs/demo.yml --dry-run --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
