"""`maxmig flags lint`: mistakes about the flags in YAML files, as a hook for pre-commit."""

import argparse

from maxmig.cli import console
from maxmig.cli.exit_codes import ExitCode
from maxmig.cli.flags import framework
from maxmig.cli.verb import Verb


def run(args: argparse.Namespace) -> int:
    """Prints `file:line: code: what is wrong`; 1 if there is something."""
    from maxmig.rollout import lint

    names = framework.split_configs(args.configs, args.overrides)
    done = lint.check(names, framework.choice(args))
    found, skipped = done.findings, done.skipped
    if args.json:
        console.emit_json({"files": len(names), "findings": found, "skipped": skipped})
    else:
        for told in (*found, *skipped):
            console.out(str(told))
        files = _count(len(names) - len(skipped), "file")
        left = f"; {_count(len(skipped), 'file')} skipped" if skipped else ""
        verdict = "FAIL" if found else "SKIP" if len(skipped) == len(names) else "PASS"
        count = f": {_count(len(found), 'finding')} in {files}{left}"
        console.out(console.status(verdict).append(count))
    return ExitCode.DIFFERENCE if found else ExitCode.PASS


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="FILE", nargs="+", help="YAML files; others are skipped")
    parser.set_defaults(overrides=[])
    framework.add_arguments(parser)


VERB = Verb(
    name="lint",
    help="illegal combinations, duplicate keys, quoted or misspelt flags, tabs; for pre-commit",
    examples=(
        "maxmig flags lint configs/demo.yml configs/demo_nnx.yml",
        "maxmig flags lint configs/demo.yml --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
