"""`maxmig parity run --pair PKG.MODULE:FUNCTION`: two modules of a user's own."""

import argparse
import shlex
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import common, console

if TYPE_CHECKING:
    from maxmig.parity import Report

# Options of `parity run` and `localize` that speak of the framework's rungs and batches.
_ONLY_WITH_CONFIG = {
    "--control": "linen",
    "--candidate": "nnx",
    "--checkpoint": None,
    "--dtype": None,
    "--only": None,
    "--ladder": False,
    "--allow-same": False,
    "--gate-performance": None,
    "--bug": None,
    "--length": None,
    "--tokens": None,
    "--stage": "linen",
    "--steps": 5,  # a pair says its own
    "--policy": "auto",
    "--rows": 2,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--pair`, `--mapping` and `--save-mapping`."""
    parser.add_argument(
        "--pair",
        metavar="PKG.MODULE:FUNCTION",
        help="compare your own modules in place of CONFIG: a function that takes nothing and "
        "returns (linen_module, nnx_module, inputs)",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="with --pair: where each weight goes (default: traced)"
    )
    parser.add_argument(
        "--save-mapping", metavar="FILE", help="with --pair: write the mapping, to edit and reuse"
    )


def check(args: argparse.Namespace, *, allowed: tuple[str, ...] = ()) -> None:
    """Refuses options that do not go together.

    Args:
        args: of the command line.
        allowed: options that otherwise go with CONFIG alone.

    Raises:
        ConfigError: neither CONFIG nor --pair is given, or both, or options of the other.
    """
    if not args.pair:
        for option in ("mapping", "save_mapping"):
            if getattr(args, option, None):
                raise errors.ConfigError(f"--{option.replace('_', '-')} goes with --pair")
        if args.config is None:
            raise errors.ConfigError(
                "expected CONFIG, a YAML file or a built-in configuration such as demo, or "
                "--pair pkg.module:function for two modules of your own"
            )
        return
    if args.config is not None:
        raise errors.ConfigError(f"expected CONFIG or --pair, got both: {args.config}, {args.pair}")
    for option, default in _ONLY_WITH_CONFIG.items():
        given = getattr(args, option[2:].replace("-", "_"), default)
        if given != default and option not in allowed:
            raise errors.ConfigError(f"{option} goes with CONFIG, not with --pair")


def side(args: argparse.Namespace) -> str:
    """The side of a pair that `--stage` names.

    Raises:
        ConfigError: it is a rung that a pair does not have.
    """
    if args.stage not in ("linen", "nnx"):
        raise errors.ConfigError(f"--stage {args.stage}: a pair has the sides linen and nnx")
    return str(args.stage)


def compare(args: argparse.Namespace) -> "Report":
    """Compares the pair that `--pair` names.

    Raises:
        ConfigError, DataError: the pair, its inputs or the mapping cannot be used.
    """
    common.setup_devices(args.simulate_devices)
    from maxmig.parity import levels, pairs
    from maxmig.parity.rungs import request

    return pairs.run(
        args.pair,
        noise=request.read_noise(args.noise) if args.noise else None,
        levels=levels.parse(args.level),
        mapping=args.mapping,
        save_mapping=args.save_mapping,
        command=_command(args),
        note=console.note,
    )


def _command(args: argparse.Namespace) -> str:
    words = ["maxmig", "parity", "run", "--pair", args.pair, "--level", args.level]
    if args.mapping:
        words += ["--mapping", args.mapping]
    if args.noise:
        words += ["--noise", args.noise]
    return shlex.join(words)
