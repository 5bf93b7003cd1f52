"""`maxmig flags why`: a key's value, its meaning, and every source that gave it."""

import argparse
from typing import TYPE_CHECKING, Any

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.flags import framework, show
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.rollout.effective import Effective

_WIDE = 80


def run(args: argparse.Namespace) -> int:
    """Prints a key's value, its type, its meaning and every source that gave it."""
    from maxmig.config import maxtext_keys, messages
    from maxmig.config.schema import KEYS

    name = args.key
    found = framework.maxtext(args)
    if found is not None:
        return _maxtext(found, name, args.json)
    cfg = common.load_config(args)
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
    _print_chain([(link.place, link.value) for link in origin.chain])
    return 0


def _print_chain(links: list[tuple[str, Any]]) -> None:
    last = len(links) - 1
    rows = [
        (place, _short(value), "in force" if i == last else "overridden")
        for i, (place, value) in enumerate(links)
    ]
    console.out(console.table(("source, weakest first", "value", ""), rows))


def _maxtext(found: "Effective", name: str, as_json: bool) -> int:
    """A key of a MaxText file: the flags with their defaults, any other key by its files."""
    if name in found.sources:
        links = [(source.place, source.value) for source in found.sources[name]]
    else:
        links = found.chain(name)
    if not links:
        raise errors.ConfigError(
            f"no file of {found.name} gives {name!r}: {found.framework.title} takes its own default"
        )
    place, value = links[-1]
    if as_json:
        chain = [{"source": place, "value": value} for place, value in links]
        console.emit_json(
            {
                "key": name,
                "value": value,
                "source": place,
                "chain": chain,
                "framework": found.framework.document(),
            }
        )
        return 0
    console.out(f"{name}: {_lines(value)}")
    console.out(f"{found.framework.title}: {found.framework.era.text}")
    _print_chain(links)
    for note in found.notes:
        console.note(f"note: {note}")
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


def _lines(value: Any) -> str:
    text = show.plain(value)
    if len(text) <= _WIDE or not isinstance(value, tuple) or not isinstance(value[0], tuple):
        return text
    return "".join(f"\n  - {show.plain(item)}" for item in value)


def _short(value: Any) -> str:
    text = show.plain(value)
    return text if len(text) <= _WIDE else text[: _WIDE - 3] + "..."


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="the key to explain, for example learning_rate")
    show.add_config_arguments(parser)


VERB = Verb(
    name="why",
    help="a key's value, meaning, and every source that gave it",
    examples=(
        "maxmig flags why learning_rate configs/demo.yml",
        "maxmig flags why steps configs/demo.yml steps=20 --json",
    ),
    add_arguments=_add_arguments,
    run=run,
)
