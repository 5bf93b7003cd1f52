"""Arguments and wording that the `ckpt` verbs share."""

import argparse

PATH_HELP = "a directory of steps (checkpoint/), one step (checkpoint/9), or its items/"
LAYOUTS = (  # converters.layouts knows them; listed here, so that --help is fast
    *("linen", "nnx", "linen-state", "linen-variables", "linen-params"),
    *("nnx-state", "nnx-optimizer", "to-nnx", "to-linen", "tunix"),
    *("maxtext-linen", "maxtext-nnx"),
)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds `--step`."""
    parser.add_argument("--step", type=count, metavar="N", help="which step (default: the last)")


def add_max_memory(parser: argparse.ArgumentParser) -> None:
    """Adds `--max-memory` of the verbs that only read."""
    parser.add_argument(
        "--max-memory",
        type=memory,
        metavar="SIZE",
        default=256 << 20,
        help="memory for arrays, such as 64MiB (default 256MiB; a few chunks are always needed)",
    )


def count(text: str) -> int:
    """A whole number of 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, got {text!r}")
    return int(text)


def tolerance(text: str) -> float:
    """A number of 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, got {text!r}")
    return value


def size(nbytes: float) -> str:
    """Bytes for people."""
    from maxmig.converters import accounting

    return accounting.size(nbytes)


def memory(text: str) -> int:
    """A size in bytes: `512MiB`, `4GiB`, `100MB` or a plain number."""
    units = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
    units |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = units.get(text[len(number) :].strip().lower())
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if unit is None or not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a size such as 512MiB or 4GiB, got {text!r}")
    return int(value * unit)
