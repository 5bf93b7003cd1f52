"""Every verb that is listed: it is there, cheap to import, described the same, with examples."""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from maxmig.cli import parser

NAMES = [entry.name for entry in parser.VERBS]


@pytest.mark.parametrize("entry", parser.VERBS, ids=NAMES)
def test_the_table_says_what_the_module_says(entry):
    module = importlib.import_module(f"maxmig.cli.{entry.name}")
    if entry.group:
        assert (entry.name, entry.help) == (module.NAME, module.HELP)
        assert len({verb.name for verb in module.VERBS}) == len(module.VERBS) > 0
    else:
        assert (module.VERB.name, module.VERB.help) == (entry.name, entry.help)


@pytest.mark.parametrize("entry", parser.VERBS, ids=NAMES)
def test_help_and_examples(entry, run, root: Path):
    module = importlib.import_module(f"maxmig.cli.{entry.name}")
    for verb in module.VERBS if entry.group else (module.VERB,):
        words = [entry.name, verb.name] if entry.group else [entry.name]
        done = run(*words, "--help")
        assert done.code == 0
        examples = done.out.rstrip().splitlines()[-len(verb.examples) :]
        assert [line.strip() for line in examples] == list(verb.examples)
        for example in verb.examples:
            program, *argv = shlex.split(example, comments=True)
            assert program == "maxmig"
            chosen, _ = parser.parse(argv)  # it is at least a valid command line
            assert chosen == verb
            for word in argv:
                if word.startswith("configs/"):
                    assert (root / word).is_file(), f"{example}: {word} is not there"


def test_importing_a_verb_is_cheap():
    heavy = {"jax", "flax", "optax", "orbax", "tensorstore", "grain", "matplotlib"}
    code = (
        f"import importlib, sys\nfor name in {NAMES!r}:\n"
        f"    importlib.import_module('maxmig.cli.' + name)\n"
        f"    found = sorted({heavy!r} & sys.modules.keys())\n"
        "    assert not found, (name, found)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
