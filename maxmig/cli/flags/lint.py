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
    found = lint.lint(names, framework.choice(args))
    if args.json:
        console.emit_json({"files": len(names), "findings": found})
    else:
        for finding in found:
            console.out(str(finding))
        files = f"{len(names)} file{'s' if len(names) > 1 else ''}"
        count = f"{len(found)} finding{'s' if len(found) != 1 else ''}"
        console.out(console.status("FAIL" if found else "PASS").append(f": {count} in {files}"))
    return ExitCode.DIFFERENCE if found else ExitCode.PASS


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
