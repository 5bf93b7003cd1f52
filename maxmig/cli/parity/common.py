"""What the verbs of `maxmig parity` share: the rungs, and arguments that several of them take."""

import argparse

# The rungs of maxmig.config.Stage, which is too heavy to import for --help; a test compares them.
RUNGS = ("linen", "bridged-decoder", "bridged", "hybrid", "nnx")


def add_sides(parser: argparse.ArgumentParser) -> None:
    """Adds `--control` and `--candidate`."""
    parser.add_argument(
        "--control", choices=RUNGS, default="linen", help="the trusted rung (default: linen)"
    )
    parser.add_argument(
        "--candidate", choices=RUNGS, default="nnx", help="the rung to examine (default: nnx)"
    )


def count(text: str) -> int:
    """An argument that is a whole number of 0 or more.

    Raises:
        ArgumentTypeError: it is not.
    """
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return value
