"""The argument parser: absl's argparse with sub-commands, which imports only the verb asked for."""

import argparse
import dataclasses
import difflib
import importlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from absl import flags
from absl.flags import argparse_flags

import maxmig
from maxmig import errors
from maxmig.cli import exit_codes
from maxmig.cli.verb import Verb


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of the table of commands: what `maxmig --help` shows without importing the command."""

    name: str
    help: str
    group: bool = False


VERBS = (
    Entry("demo", "the whole story in a few minutes: train, convert, check parity, flip, go on"),
    Entry("train", "train a model, or resume, under the rung that the flags name"),
    Entry("eval", "the loss of a checkpoint on held-out data"),
    Entry("generate", "continue text with a trained model"),
    Entry("logits", "logits, loss and gradients of a batch, as arrays for any other framework"),
    Entry("flags", "which framework runs, and how to flip it on evidence", group=True),
    Entry("ckpt", "inspect, convert and compare checkpoints", group=True),
    Entry("parity", "check that two backends agree, and report it", group=True),
    Entry("lint", "traps of the move to NNX that can be seen in the source"),
    Entry("bench", "speed and memory of the backends, as ratios", group=True),
    Entry("doctor", "versions, devices and what can run here"),
)

_EXAMPLES = ("maxmig demo", "maxmig flags show", "maxmig train --help")

_COMMON = (  # option strings, dest, help
    (("--quiet",), "quiet", "no progress and no advice; results and errors only"),
    (("-v", "--verbose"), "verbose", "more log lines on stderr"),
    (("--no-color",), "no_color", "plain text (NO_COLOR and TERM=dumb do the same)"),
    (("--debug",), "debug", "show the traceback of an error (also MAXMIG_DEBUG=1)"),
)
_JSON = (("--json",), "json", "print exactly one JSON document on stdout")


class UsageError(errors.ConfigError):
    """The command line cannot be understood; `usage` is the help to show with the message."""

    def __init__(self, message: str, usage: str = ""):
        super().__init__(message)
        self.usage = usage


class _Parser(argparse_flags.ArgumentParser):
    """A parser that raises instead of leaving the process, and never guesses an abbreviation."""

    def __init__(self, **kwargs: Any):
        # Once a library has defined absl flags, some (absl.logging's -v) clash with ours: ours win.
        kwargs.setdefault("conflict_handler", "resolve")
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)
        for action in self._actions:
            if "--helpfull" in action.option_strings:
                action.help = argparse.SUPPRESS

    def print_help(self, file: Any = None) -> None:
        # argparse's own swallows a failed write, and with it a reader that has left.
        (file or sys.stdout).write(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, _see(self))


def parse(argv: Sequence[str]) -> tuple[Verb, argparse.Namespace]:
    """The verb and its arguments.

    Raises:
        UsageError: the command line cannot be understood.
        SystemExit: help or the version was asked for, and printed.
    """
    argv = _expand_flag_files(argv)
    words = [word for word in argv if not word.startswith("-")]
    root = _Parser(
        prog="maxmig",
        description="Move JAX language models from Flax Linen to Flax NNX "
        "without losing a weight or a digit.",
        epilog=f"exit codes:\n{exit_codes.table()}\n\n{_examples(_EXAMPLES)}",
    )
    _add_common(root, json=True, default=False)
    chosen: Verb | None = None
    leaf: argparse.ArgumentParser = root
    commands = root.add_subparsers(title="commands", metavar="VERB", dest="verb")
    for entry in VERBS:
        if words[:1] != [entry.name]:
            commands.add_parser(entry.name, help=entry.help)
            continue
        module = importlib.import_module(f"maxmig.cli.{entry.name}")
        if entry.group:
            chosen, leaf = _add_group(commands, module, words[1:2])
        else:
            chosen, leaf = module.VERB, _add_verb(commands, module.VERB)
    if words and leaf is root:
        raise UsageError(_unknown("command", words[0], [entry.name for entry in VERBS]))
    args, rest = root.parse_known_args(argv)
    if chosen is None:
        raise UsageError("expected a command", leaf.format_help())
    _take_overrides(args, rest, leaf)
    if args.json and not chosen.json:
        raise UsageError(f"{leaf.prog} has no --json", _see(leaf))
    return chosen, args


def _add_group(
    commands: Any, module: Any, words: Sequence[str]
) -> tuple[Verb | None, argparse.ArgumentParser]:
    group = commands.add_parser(module.NAME, help=module.HELP, description=_sentence(module.HELP))
    _add_common(group, json=True)
    chosen, leaf = None, group
    verbs = group.add_subparsers(title="commands", metavar="VERB", dest="subverb")
    for verb in module.VERBS:
        parser = _add_verb(verbs, verb)
        if words == [verb.name]:
            chosen, leaf = verb, parser
    if words and chosen is None:
        names = [verb.name for verb in module.VERBS]
        raise UsageError(_unknown(f"'{group.prog}' command", words[0], names))
    group.epilog = _examples([verb.examples[0] for verb in module.VERBS])
    return chosen, leaf


def _add_verb(commands: Any, verb: Verb) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        verb.name,
        help=verb.help,
        description=_sentence(verb.help),
        epilog=_examples(verb.examples),
    )
    _add_common(parser, json=verb.json)
    verb.add_arguments(parser)
    shared = {dest for _, dest, _ in (*_COMMON, _JSON)}
    for action in parser._actions:
        # A default here would overwrite what was said before the verb.
        if action.dest in shared:
            action.default = argparse.SUPPRESS
    return parser


def _add_common(
    parser: argparse.ArgumentParser, *, json: bool, default: Any = argparse.SUPPRESS
) -> None:
    options = parser.add_argument_group("common options")
    for names, dest, text in (_JSON, *_COMMON) if json else _COMMON:
        options.add_argument(*names, dest=dest, action="store_true", default=default, help=text)
    options.add_argument(
        "--version", action="version", version=f"maxmig {maxmig.__version__}", help="show it"
    )


def _take_overrides(
    args: argparse.Namespace, rest: list[str], parser: argparse.ArgumentParser
) -> None:
    """Gives `key=value` words that follow an option back to the overrides.

    argparse hands all positional words out at the first of them, and would call these unknown.
    """
    unknown = [word for word in rest if word.startswith("-") or not hasattr(args, "overrides")]
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        raise UsageError(_unknown("argument", unknown[0], known), _see(parser))
    if rest:
        args.overrides = [*args.overrides, *rest]


def _expand_flag_files(argv: Sequence[str]) -> list[str]:
    try:
        return flags.FLAGS.read_flags_from_files(list(argv), force_gnu=True)
    except flags.Error as error:
        raise UsageError(f"--flagfile: {error}") from error


def _see(parser: argparse.ArgumentParser) -> str:
    """Where the options are told; their list would bury the error."""
    return f"all options: {parser.prog} --help"


def _unknown(kind: str, word: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(word.partition("=")[0], known, n=2, cutoff=0.5)
    if near:
        return f"unknown {kind} {word!r}; did you mean {' or '.join(near)}?"
    if word.startswith("-") or kind == "argument":
        return f"unknown {kind} {word!r}"
    return f"unknown {kind} {word!r}; there are: {', '.join(known)}"


def _examples(examples: Iterable[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
