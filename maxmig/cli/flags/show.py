"""`maxmig flags show`: the rung that the three flags select, with their origins, and the ladder."""

import argparse
from typing import TYPE_CHECKING, Any

from maxmig.cli import common, console
from maxmig.cli.flags import framework
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.config import Config, Stage
    from maxmig.rollout.effective import Effective


def run(args: argparse.Namespace) -> int:
    """Prints the stage, the three flags with their origins, and the neighbours on the ladder."""
    from maxmig.config.flags import KEYS

    foreign = framework.maxtext(args)
    if foreign is not None:
        return _maxtext(foreign, args.json)
    cfg = common.load_config(args)
    stage = cfg.flags.stage
    if args.json:
        console.emit_json(_document(cfg))
        return 0
    _print_stage(stage)
    values = stage.flags.as_dict()
    rows = [(key, plain(values[key]), cfg.origin(key).place) for key in KEYS]
    console.out(console.table(("flag", "value", "from"), rows))
    console.out(console.table(("rung", "stage", "", "runs", "to get there"), _ladder(stage)))
    return 0


def plain(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    from maxmig.config import scalars

    return scalars.plain(value)


def _print_stage(stage: "Stage") -> None:
    from maxmig.config import LADDER

    console.out(f"stage {stage.value}: rung {stage.order + 1} of {len(LADDER)}")
    console.out(f"runs  {stage.runs}")


def _maxtext(found: "Effective", as_json: bool) -> int:
    from maxmig.config.flags import KEYS
    from maxmig.rollout import dangers

    stage, values = found.stage, found.values()
    warnings = dangers.find(found, stage, None)
    if as_json:
        console.emit_json(
            {
                "framework": found.framework.document(),
                "stage": stage.value,
                "order": stage.order,
                "runs": stage.runs,
                "flags": {
                    key: {"value": values[key], "source": found.origin(key).place} for key in KEYS
                },
                "dangers": [danger.document() for danger in warnings],
                "notes": list(found.notes),
            }
        )
        return 0
    console.out(f"{found.framework.title}: {found.framework.era.text}")
    console.out(f"{'':<5} {found.framework.found}")
    _print_stage(stage)
    rows = [(key, plain(values[key]), found.origin(key).place) for key in KEYS]
    console.out(console.table(("flag", "value", "from"), rows))
    for danger in warnings:
        console.out(f"{danger.severity.value:<10} {danger.place}: {danger.text}")
        console.out(f"{'safe way':<10} {danger.safe}")
    for note in found.notes:
        console.note(f"note: {note}")
    return 0


def _ladder(here: "Stage") -> list[tuple[str, str, str, str, str]]:
    from maxmig.config import LADDER

    marks = {here: "runs now", here.above: "next", here.below: "back"}
    return [
        (
            str(stage.order + 1),
            stage.value,
            marks.get(stage, ""),
            stage.runs,
            "" if stage is here else _changes(here, stage),
        )
        for stage in LADDER
    ]


def _changes(here: "Stage", there: "Stage") -> str:
    return " ".join(f"{key}={plain(value)}" for key, value in here.changes(there).items())


def _document(cfg: "Config") -> dict[str, Any]:
    stage = cfg.flags.stage
    flags = {}
    for key, value in stage.flags.as_dict().items():
        origin = cfg.origin(key)
        flags[key] = {"value": value, "source": origin.source, "line": origin.line}
    return {
        "stage": stage.value,
        "order": stage.order,
        "runs": stage.runs,
        "flags": flags,
        "next": _neighbour(stage, stage.above),
        "back": _neighbour(stage, stage.below),
        "config_digest": cfg.digest,
    }


def _neighbour(here: "Stage", there: "Stage | None") -> dict[str, Any] | None:
    if there is None:
        return None
    return {"stage": there.value, "runs": there.runs, "change": here.changes(there)}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds CONFIG, its overrides, and whose configuration it is."""
    parser.add_argument(
        "config", metavar="CONFIG", nargs="?", help="YAML file with the settings; default base.yml"
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="settings that win over the file, for example enable_nnx=true",
    )
    framework.add_arguments(parser)


VERB = Verb(
    name="show",
    help="the stage that the three flags select, and how to climb or go back",
    examples=(
        "maxmig flags show configs/demo.yml",
        "maxmig flags show configs/demo.yml enable_nnx=true --json",
    ),
    add_arguments=add_config_arguments,
    run=run,
)
