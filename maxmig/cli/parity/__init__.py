"""`maxmig parity VERB`: does one backend compute what the other does? One file a verb."""

import importlib

from maxmig.cli.verb import Verb

NAME = "parity"
HELP = "check that two backends agree, and report it"

# In the order of the help. A verb is a module of this package with a `VERB`.
_MODULES = ("run", "localize", "noise", "record", "compare", "explain", "init", "selftest")

VERBS: tuple[Verb, ...] = tuple(
    importlib.import_module(f"maxmig.cli.parity.{module}").VERB for module in _MODULES
)
