"""A command `probe` whose behaviour a test chooses, and a way to run command lines."""

import argparse
import sys
import types
from collections.abc import Callable
from typing import Any

import commands
import pytest

from maxmig.cli import common, parser, verb


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., commands.Result]:
    """Runs one command line: `run("flags", "show", "--json")`."""

    return lambda *argv: commands.call(capsys, argv)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs the commands `probe` (takes a CONFIG) and `group one|two`, which run `function`."""

    real = parser.VERBS

    def install(function: Callable[[argparse.Namespace], int | None], **options: Any) -> None:
        def add_arguments(parser: argparse.ArgumentParser) -> None:
            common.add_config_arguments(parser, optional=options.get("optional", False))
            parser.add_argument("--level", type=int, default=0)

        def make(name: str) -> verb.Verb:
            examples = (f"maxmig {name} a.yml", f"maxmig {name} a.yml steps=3")
            json = options.get("json", True)
            return verb.Verb(name, f"runs {name}", examples, add_arguments, function, json)

        single = types.ModuleType("maxmig.cli.probe")
        single.VERB = make("probe")  # type: ignore[attr-defined]
        group = types.ModuleType("maxmig.cli.group")
        group.NAME, group.HELP = "group", "two commands"  # type: ignore[attr-defined]
        group.VERBS = (make("one"), make("two"))  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, single.__name__, single)
        monkeypatch.setitem(sys.modules, group.__name__, group)
        rows = (parser.Entry("probe", "probe"), parser.Entry("group", "group", group=True))
        monkeypatch.setattr(parser, "VERBS", (*real, *rows))

    return install
