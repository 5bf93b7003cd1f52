"""`maxmig flags show|why`: which stage runs, and where each setting comes from."""

import argparse
from typing import TYPE_CHECKING, Any

from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.config import Config, Stage

NAME = "flags"
HELP = "which framework runs, and where each setting comes from"

_WIDE = 80


def show(args: argparse.Namespace) -> int:
    """Prints the stage, the three flags with their origins, and the neighbours on the ladder."""
    from maxmig.config import LADDER
    from maxmig.config.flags import KEYS

    cfg = common.load_config(args)
    stage = cfg.flags.stage
    if args.json:
        console.emit_json(_document(cfg))
        return 0
    console.out(f"stage {stage.value}: rung {stage.order + 1} of {len(LADDER)}")
    console.out(f"runs  {stage.runs}")
    values = stage.flags.as_dict()
    rows = [(key, _plain(values[key]), cfg.origin(key).place) for key in KEYS]
    console.out(console.table(("flag", "value", "from"), rows))
    console.out(console.table(("rung", "stage", "", "runs", "to get there"), _ladder(stage)))
    return 0


def why(args: argparse.Namespace) -> int:
    """Prints a key's value, its type, its meaning and every source that gave it."""
    from maxmig.config import maxtext_keys, messages
    from maxmig.config.schema import KEYS

    cfg = common.load_config(args)
    name = args.key
    if name in maxtext_keys.TABLE:
        return _foreign(name, args.json)
    origin = cfg.origin(name)
    group, field = KEYS[name]
    value = cfg.flat()[name]
    if args.json:
        links = [{"source": o.source, "line": o.line, "value": o.value} for o in origin.chain]
        console.emit_json(
            {
                "key": name,
                "value": value,
                "group": group,
                "takes": messages.expected(field),
                "description": field.description,
                "source": origin.source,
                "line": origin.line,
                "chain": links,
            }
        )
        return 0
    console.out(f"{name}: {_lines(value)}")
    console.out(f"takes {messages.expected(field)}; group {group}")
    console.out(f"{field.description}")
    last = len(origin.chain) - 1
    rows = [
        (link.place, _short(link.value), "in force" if i == last else "overridden")
        for i, link in enumerate(origin.chain)
    ]
    console.out(console.table(("source, weakest first", "value", ""), rows))
    return 0


def _foreign(name: str, as_json: bool) -> int:
    from maxmig.config import maxtext_keys

    foreign = maxtext_keys.TABLE[name]
    if as_json:
        console.emit_json(
            {"key": name, "maxtext_only": True, "accepted": foreign.accepted, "effect": None}
        )
        return 0
    why_not = f": {foreign.reason}" if foreign.reason else ""
    console.out(f"{name} is a key of MaxText that has no effect in maxmig{why_not}.")
    console.out(f"It is accepted at {foreign.accepted}.")
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
    return " ".join(f"{key}={_plain(value)}" for key, value in here.changes(there).items())


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


def _plain(value: Any) -> str:
    from maxmig.config import scalars

    return scalars.plain(value)


def _lines(value: Any) -> str:
    text = _plain(value)
    if len(text) <= _WIDE or not isinstance(value, tuple) or not isinstance(value[0], tuple):
        return text
    return "".join(f"\n  - {_plain(item)}" for item in value)


def _short(value: Any) -> str:
    text = _plain(value)
    return text if len(text) <= _WIDE else text[: _WIDE - 3] + "..."


def _config_arguments(parser: argparse.ArgumentParser) -> None:
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


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the key to explain, for example learning_rate")
    _config_arguments(parser)


VERBS = (
    Verb(
        name="show",
        help="the stage that the three flags select, and how to climb or go back",
        examples=(
            "maxmig flags show configs/demo.yml",
            "maxmig flags show configs/demo.yml enable_nnx=true --json",
        ),
        add_arguments=_config_arguments,
        run=show,
    ),
    Verb(
        name="why",
        help="a key's value, meaning, and every source that gave it",
        examples=(
            "maxmig flags why learning_rate configs/demo.yml",
            "maxmig flags why steps configs/demo.yml steps=20 --json",
        ),
        add_arguments=_why_arguments,
        run=why,
    ),
)
