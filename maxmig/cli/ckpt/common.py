"""Arguments and wording that the `ckpt` verbs share."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint
    from maxmig.converters.layouts import Hints

PATH_HELP = (
    "a directory of steps (checkpoint/), one step (checkpoint/9), its items/, or a msgpack or "
    "safetensors file; local, gs:// or s3://"
)
LAYOUTS = (  # converters.layouts knows them; listed here, so that --help is fast
    *("linen", "nnx", "maxtext-nnx", "linen-state", "linen-variables", "linen-params"),
    *("nnx-state", "nnx-optimizer", "nnx-pair", "to-nnx", "to-linen", "tunix"),
    "maxtext-linen",
)


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds `--step`."""
    parser.add_argument("--step", type=count, metavar="N", help="which step (default: the last)")


def add_from(parser: argparse.ArgumentParser, what: str = "SRC") -> None:
    """Adds `--from`."""
    parser.add_argument(
        "--from", dest="layout", metavar="LAYOUT", help=f"layout of {what} (default: found out)"
    )


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Adds what a conversion is planned with: SRC's layout, the mapping, the layers."""
    add_from(parser)
    parser.add_argument("--map", metavar="FILE", help="a mapping file (see `maxmig ckpt map`)")
    add_choice(parser, "scan", "stack the layers", "take them apart (default: as in SRC)")
    parser.add_argument(
        "--scan-axis",
        type=count,
        metavar="K",
        help="layer axis of the result; the last one of an array that has fewer (default of "
        "--scan: SRC's, else 0, or 1 for trees with MaxText's names)",
    )
    parser.add_argument(
        "--from-scan-axis",
        type=count,
        metavar="K",
        help="layer axis of SRC, where neither metadata nor shapes tell it",
    )


def add_choice(parser: argparse.ArgumentParser, name: str, yes: str, no: str) -> None:
    """Adds `--NAME` and `--no-NAME`, of which one can be given; None: neither was."""
    group = parser.add_mutually_exclusive_group()
    told: dict[str, Any] = {"action": "store_const", "dest": name.replace("-", "_")}
    group.add_argument(f"--{name}", const=True, help=yes, **told)
    group.add_argument(f"--no-{name}", const=False, help=no, **told)


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


def converted_source(
    path: str,
    result: "Checkpoint",
    hints: "Hints | None" = None,
    layout: str | None = None,
    step: int | None = None,
) -> "Checkpoint":
    """A checkpoint as the conversion that a result records took it, where its tree does not tell.

    Args:
        path: where it is.
        result: may have been made of it.
        hints: of a mapping file; None: of the one that is recorded.
        layout: as a user says; None finds out, else takes the one that is recorded.
        step: which step of a directory of steps; None takes the last.
    """
    from maxmig.converters import checkpoint
    from maxmig.converters.mapping import files

    try:
        return checkpoint.read(path, step=step, layout=layout, hints=hints)
    except errors.ConvertError:
        told = result.own.get("converted_from") or {}
        if layout is not None or "layout" not in told:
            raise
        document = (told.get("options") or {}).get("map_file")
        if hints is None and document is not None:
            hints = files.parse(document, f"{result.place}: its metadata").hints
        return checkpoint.read(path, step=step, layout=str(told["layout"]), hints=hints)


def refuse_input(file: str | Path, *inputs: str | None) -> None:
    """Refuses to write a file that is an input of the command, or a part of any checkpoint.

    Raises:
        ConfigError: it is.
    """
    from maxmig.converters import places

    place = Path(os.path.realpath(file))
    marks = (places.TREE_METADATA, places.STEP_METADATA, places.MARKER, places.WHOLE)
    given = [each for each in inputs if each is not None]
    homes = [
        each for each in given if places.inside(place, each) or os.path.realpath(each) == str(place)
    ]
    homes += [str(at) for at in place.parents if any((at / name).is_file() for name in marks)]
    if place.suffix in (".msgpack", ".safetensors") and place.is_file():
        homes.append(str(place))
    if homes:
        raise errors.ConfigError(
            f"{file}: expected a file apart from {homes[0]}, which is never changed; choose another"
        )


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
