"""Arguments and wording that the `ckpt` verbs share."""

import argparse
from pathlib import Path
from typing import Any

from maxmig import errors

PATH_HELP = "a directory of steps (checkpoint/), one step (checkpoint/9), or its items/"
LAYOUTS = (  # converters.layouts knows them; listed here, so that --help is fast
    *("linen", "nnx", "maxtext-nnx", "linen-state", "linen-variables", "linen-params"),
    *("nnx-state", "nnx-optimizer", "nnx-pair", "to-nnx", "to-linen", "tunix"),
    "maxtext-linen",
)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds `--step`."""
    parser.add_argument("--step", type=count, metavar="N", help="which step (default: the last)")


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Adds what a conversion is planned with: SRC's layout, the mapping, the layers."""
    parser.add_argument(
        "--from", dest="layout", metavar="LAYOUT", help="layout of SRC (default: found out)"
    )
    parser.add_argument("--map", metavar="FILE", help="a mapping file (see `maxmig ckpt map`)")
    parser.add_argument(
        "--scan",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="stack the layers, or take them apart (default: as in SRC)",
    )
    parser.add_argument(
        "--scan-axis",
        type=count,
        metavar="K",
        help="layer axis of the result; the last one of an array that has fewer",
    )
    parser.add_argument(
        "--from-scan-axis",
        type=count,
        metavar="K",
        help="layer axis of SRC, where neither metadata nor shapes tell it",
    )


def add_map(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--map` of the verbs that only read."""
    parser.add_argument(
        "--map", metavar="FILE", help=f"a mapping file (see `maxmig ckpt map`): {what}"
    )


def layers(args: argparse.Namespace) -> dict[str, Any]:
    """The options of a plan that `add_layers` adds, but for the layout.

    Raises:
        ConfigError: they contradict, or the mapping file is none.
    """
    from maxmig.converters.mapping import files

    if args.scan is False and args.scan_axis is not None:
        raise errors.ConfigError(
            "--no-scan and --scan-axis contradict: layers that are apart have no layer axis; "
            "drop one (the axis of SRC is --from-scan-axis)"
        )
    return {
        "map_file": files.read(args.map) if args.map else None,
        "scan": args.scan,
        "scan_axis": args.scan_axis,
        "from_scan_axis": args.from_scan_axis,
    }


def write(file: str | Path, text: str) -> None:
    """Writes a file that the user asked for.

    Raises:
        DataError: it cannot be written.
    """
    try:
        Path(file).write_text(text, "utf-8")
    except OSError as error:
        raise errors.DataError(
            f"{file}: expected a file that can be written, but: {error.strerror}; choose another"
        ) from error


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
