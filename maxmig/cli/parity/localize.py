"""`maxmig parity localize`: the first equation that differs, with both source lines."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.parity import pairs as own
from maxmig.cli.parity.common import add_sides
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.parity.faults.specimen import Side
    from maxmig.parity.rungs.localize import Localization
    from maxmig.parity.static import Equation


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_config_arguments(parser, optional="this or --pair is needed")
    add_sides(parser)
    parser.add_argument(
        "--pair",
        metavar="PKG.MODULE:FUNCTION",
        help="compare your own modules in place of CONFIG, as `parity run --pair` does",
    )
    parser.add_argument(
        "--mapping", metavar="FILE", help="with --pair: where each weight goes (default: traced)"
    )
    parser.add_argument(
        "--checkpoint", metavar="DIR", help="weights, in any layout (default: random ones)"
    )
    parser.add_argument(
        "--rows", type=common.positive, default=2, metavar="N", help="rows of tokens (default: 2)"
    )
    parser.add_argument(
        "--length",
        type=common.positive,
        metavar="N",
        help="tokens of a row (default: 64, or the configuration's, if that is less)",
    )
    parser.add_argument(
        "--bug",
        metavar="NAME",
        help="put a bug of `parity selftest` into the candidate, to see what it looks like",
    )
    parser.add_argument(
        "--repro", metavar="DIR", help="write a script there that shows the difference again"
    )


def run(args: argparse.Namespace) -> int:
    """Finds the first difference, prints it, and writes the script."""
    own.check(args)
    found = _of_pair(args) if args.pair else _of_config(args)
    if args.json:
        console.emit_json(_document(found))
    else:
        _print(found)
    return found.verdict.exit_code


def _of_pair(args: argparse.Namespace) -> "Localization":
    common.setup_devices(args.simulate_devices)
    from maxmig.parity.pairs import locate

    folder = Path(args.repro) if args.repro else None
    return locate.locate(args.pair, mapping=args.mapping, folder=folder)


def _of_config(args: argparse.Namespace) -> "Localization":
    cfg = common.load_config(args)
    from maxmig.config import Stage
    from maxmig.parity.faults import bugs, specimen
    from maxmig.parity.rungs import localize

    bug = None
    if args.bug:
        known = {each.name: each for each in (*bugs.BUGS, bugs.REWRITE)}
        if args.bug not in known:
            raise errors.ConfigError(f"--bug {args.bug!r} is not one of {', '.join(known)}")
        bug = known[args.bug]
    length = args.length or min(64, cfg.train.max_target_length)
    control = specimen.Side(cfg, Stage(args.control), None, args.rows, length)
    candidate = specimen.Side(cfg, Stage(args.candidate), bug, args.rows, length)
    given = None if args.checkpoint is None else _weights(control, args.checkpoint)
    folder = Path(args.repro) if args.repro else None
    return localize.localize(control, candidate, given, folder=folder)


def _weights(side: "Side", checkpoint: str) -> dict[str, Any]:
    """A checkpoint's weights and a packed batch."""
    from maxmig.parity.sides import start

    return {**side.inputs(), **start.from_checkpoint(side.runtime(), checkpoint).state}


def _print(found: "Localization") -> None:
    console.out(f"{'proof':<11} {found.proof.summary.partition('; ')[0]}")
    for divergence in found.proof.divergences[1:]:
        console.out(f"{'':<11} also {divergence}")
    for _, reasons in found.proof.unprovable[:1]:
        console.out(f"{'unprovable':<11} {'; '.join(reasons)}")
    for text in (*found.proof.inputs, *found.proof.missing):
        console.out(f"{'only one':<11} {text}")
    if found.shadow is not None:
        console.out(f"{'float64':<11} {found.shadow.summary.partition('; first')[0]}")
    if found.first is not None:
        first = found.first
        console.out(f"{'first':<11} {first.path or 'outside of the model'}: {found.program}")
        for name, equation in (("control", first.control), ("candidate", first.candidate)):
            console.out(f"  {name:<9} {_equation(equation)}")
        for text in first.differences:
            console.out(f"{'differs':<11} {text}")
    for cast in found.proof.casts:
        counts = f"{cast.control} in the control, {cast.candidate} in the candidate"
        kind = f"{cast.source_dtype} -> {cast.target_dtype} {list(cast.shape)}"
        console.out(f"{'cast':<11} {kind}: {counts}; {', '.join(cast.lines)}")
    if found.layers:
        rows = [
            (layer.path, f"{layer.relative:.1e}", "" if layer else "makes a difference of its own")
            for layer in found.layers
        ]
        columns = ("layer, fed with the control's values", "apart", "")
        console.out(console.table(columns, rows, right=("apart",)))
    if found.script is not None:
        console.out(f"{'script':<11} {found.script}")
    console.out(console.status(found.verdict.value), _verdict(found))


def _verdict(found: "Localization") -> str:
    if found.proof:
        return "both sides are proved to compute the same"
    if found.verdict.value == "PASS":
        return "another way of writing it, but in float64 the same"
    if found.verdict.value == "FAIL":
        return "the sides compute different things"
    if found.shadow is not None and found.shadow.unshadowable:
        return "not proved, and float64 cannot tell"
    if found.shadow is not None and found.shadow.untaken:
        return f"in float64 the same, but {found.shadow.untaken[0]}"
    return "in float64 the same, but one side rounds where the other does not"


def _equation(equation: "Equation | None") -> str:
    if equation is None:
        return "nothing"
    line = f"{equation.source or 'an unknown line'}"
    fed = f" of {', '.join(equation.operands)}" if equation.operands else ""
    inside = f" in {equation.function}" if equation.function else ""
    called = f", called at {equation.caller}" if equation.caller else ""
    what = f"{equation.primitive} {equation.dtype} {list(equation.shape)}"
    return f"{line}{inside}{called}: {what}{fed}"


def _document(found: "Localization") -> dict[str, Any]:
    import dataclasses

    return {
        "verdict": found.verdict.value,
        "program": found.program,
        "first": found.first and dataclasses.asdict(found.first),
        "proof": dataclasses.asdict(found.proof),
        "float64": found.shadow and dataclasses.asdict(found.shadow),
        "layers": [dataclasses.asdict(layer) for layer in found.layers],
        "script": found.script,
    }


VERB = Verb(
    name="localize",
    help="the first equation in which two sides differ, its module and both source lines",
    examples=(
        "maxmig parity localize configs/tiny_llama2.yml",
        "maxmig parity localize configs/tiny_llama2.yml scan_layers=false --bug epsilon "
        "--repro maxmig_output/repro",
        "maxmig parity localize --pair my_package.migration:mlp --repro repro",
    ),
    add_arguments=_add_arguments,
    run=run,
)
