"""What a command-line verb is: data, so that the frame can list, parse and run all verbs alike."""

import argparse
import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Verb:
    """One command.

    A module with a single verb exposes it as `VERB`; a group (`maxmig flags show`) exposes `NAME`,
    `HELP` and the tuple `VERBS`. Such a module must be cheap to import: whatever is heavy (jax,
    flax, orbax) is imported inside `run`.

    Attributes:
        name: the word on the command line.
        help: one line, without a full stop.
        examples: at least two command lines that run as they stand, shown at the end of the help.
        add_arguments: adds the verb's own arguments to a parser. The common options (`--json`,
            `--quiet`, `--verbose`, `--no-color`, `--debug`) are there already.
        run: does the work; returns an exit code, or None for 0. Errors are raised as
            `maxmig.errors.MaxmigError`, whose `exit_code` becomes the process's.
        json: whether the verb offers `--json`: exactly one document on stdout.
    """

    name: str
    help: str
    examples: tuple[str, ...]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    json: bool = True

    def __post_init__(self) -> None:
        if len(self.examples) < 2:
            raise ValueError(f"the verb {self.name!r} needs two examples, has {len(self.examples)}")
