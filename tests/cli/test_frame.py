"""The frame: parsing, common options, and what becomes of results and errors."""

import argparse
import importlib
import subprocess
import sys

import pytest

from maxmig import errors
from maxmig.cli import console, exit_codes, parser
from maxmig.cli.verb import Verb


def test_help_lists_every_verb_and_exit_code(run):
    done = run("--help")
    assert done.code == 0
    for entry in parser.VERBS:
        assert f"  {entry.name} " in done.out
    for code in exit_codes.ExitCode:
        assert f"{code.value:>3}  {exit_codes.MEANING[code]}" in done.out
    assert done.out.rstrip().splitlines()[-1].startswith("  maxmig ")


def test_help_imports_nothing_heavy():
    heavy = {"jax", "flax", "numpy", "optax", "orbax", "tensorstore", "pydantic", "rich", "yaml"}
    code = (
        "import sys; from maxmig.cli import main; code = main.main(['--help']);"
        f"print(sorted({heavy!r} & sys.modules.keys()), code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "[] 0\n"


def test_python_dash_m():
    done = subprocess.run(
        [sys.executable, "-m", "maxmig", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "maxmig 0.1.0\n")


def test_exit_codes_of_errors_are_in_the_table():
    codes = {
        cls.exit_code
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.MaxmigError)
    }
    # 6 is no error: changes are pending, where --exit-code asks.
    assert codes == {code.value for code in exit_codes.ExitCode} - {0, 6}
    assert set(exit_codes.MEANING) == set(exit_codes.ExitCode)


@pytest.mark.parametrize("options", [["--quiet"], ["-v"], ["--no-color"], ["--debug"], ["--json"]])
@pytest.mark.parametrize("before", [True, False])
def test_common_options_before_and_after_the_verb(run, probe, options, before):
    seen = []
    probe(lambda args: seen.append((args, console.settings())))
    words = ["probe", "a.yml"]
    assert run(*(options + words if before else words + options)).code == 0
    ((args, settings),) = seen
    names = ("quiet", "verbose", "no_color", "debug", "json")
    asked = {"-v": "verbose", "--no-color": "no_color"}.get(options[0], options[0].lstrip("-"))
    assert {name for name in names if getattr(args, name)} == {asked}
    given = {"quiet": settings.quiet, "verbose": settings.verbose, "json": settings.json}
    given |= {"no_color": not settings.color, "debug": settings.debug}
    assert {name for name, value in given.items() if value} == {asked}
    assert console.settings() == console.Settings()  # nothing is left behind


def test_a_verb_may_define_a_common_option_itself(run, monkeypatch):
    seen = []

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="the verb's own words")

    verb = Verb("doctor", "h", ("a", "b"), add, lambda args: seen.append(args.json))
    module = importlib.import_module("maxmig.cli.doctor")
    monkeypatch.setattr(module, "VERB", verb)
    for words in (["--json", "doctor"], ["doctor", "--json"], ["doctor"]):
        assert run(*words).code == 0
    assert seen == [True, True, False]


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["a.yml", "steps=3", "seed=1"], ["steps=3", "seed=1"]),
        (["a.yml", "--level", "2", "steps=3"], ["steps=3"]),
        (["a.yml", "steps=3", "--level", "2", "seed=1", "--quiet", "x=y z"], None),
        (["--level=2", "a.yml", "steps=3"], ["steps=3"]),
        (["a.yml", "steps=3", "--", "a=--b"], ["steps=3", "a=--b"]),
        (["a.yml"], []),
    ],
)
def test_overrides_may_stand_anywhere_after_the_config(run, probe, words, overrides):
    seen = []
    probe(seen.append)
    assert run("probe", *words).code == 0
    assert run("group", "two", *words).code == 0
    for args in seen:
        assert args.config == "a.yml"
        assert args.overrides == (
            overrides or (["steps=3", "seed=1", "x=y z"] if words[1:] else [])
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainn"], "unknown command 'trainn'; did you mean train?"),
        (["xyzzy"], "unknown command 'xyzzy'; there are: demo, train"),
        (["group", "on"], "unknown 'maxmig group' command 'on'; "),
        ([], "expected a command"),
        (["group"], "expected a command"),
        (["probe"], "the following arguments are required: CONFIG"),
        (["probe", "a.yml", "--level", "high"], "argument --level: invalid int value: 'high'"),
        (["probe", "a.yml", "--levle", "3"], "unknown argument '--levle'; did you mean --level"),
        (["probe", "a.yml", "--lev", "3"], "unknown argument '--lev'; did you mean --level"),
        (["probe", "a.yml", "--simulate-devices", "0"], "expected a whole number of 1 or more"),
        (["--flagfile=missing.flags", "probe"], "--flagfile: "),
    ],
)
def test_usage_errors(run, probe, words, message):
    probe(lambda args: 0)
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and message in done.err
    assert "Traceback" not in done.err
    done = run("--json", *words)
    assert done.code == 2
    assert done.json["error"]["type"] == "UsageError"
    assert message in done.json["error"]["message"]


def test_json_where_a_verb_has_none(run, probe):
    probe(lambda args: 0, json=False)
    assert "maxmig probe has no --json" in run("--json", "probe", "a.yml").err
    done = run("probe", "a.yml", "--json")
    assert (done.code, "unknown argument '--json'" in done.err) == (2, True)


def raises(error: BaseException):
    def function(args):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("steps: expected a number"), 2),
        (errors.CheckpointError("no checkpoint in x"), 4),
        (errors.DifferenceError("3 leaves differ"), 1),
        (errors.InconclusiveError("nothing compared"), 3),
        (errors.PreflightError("not enough memory"), 5),
        (errors.Interrupted("saved at step 7"), 130),
        (errors.DataError("bad usage", exit_code=2), 2),
        (FileNotFoundError(2, "No such file or directory", "x.npz"), 4),
    ],
)
def test_errors_become_a_message_and_an_exit_code(run, probe, error, code):
    probe(raises(error))
    done = run("probe", "a.yml")
    prefix = "" if code == 130 else "error: "  # a run that the user stopped is no error
    assert (done.code, done.out, done.err) == (code, "", f"{prefix}{error}\n")
    done = run("probe", "a.yml", "--json")
    expected = {"type": type(error).__name__, "message": str(error), "exit_code": code}
    assert (done.code, done.json) == (code, {"error": expected})
    assert "Traceback" in run("probe", "a.yml", "--debug").err


def test_a_bug_says_so(run, probe, monkeypatch):
    probe(raises(KeyError("mlp")))
    done = run("probe", "a b.yml")
    assert (done.code, done.out) == (70, "")
    assert "internal error: KeyError: 'mlp'" in done.err
    assert "command: maxmig probe 'a b.yml'" in done.err
    assert "maxmig doctor --json" in done.err and "Traceback" not in done.err
    monkeypatch.setenv("MAXMIG_DEBUG", "1")
    assert "Traceback" in run("probe", "a.yml").err


def test_what_the_operating_system_refuses_is_no_bug(run, probe):
    """TensorStore wraps it in a ValueError."""
    text = 'RESOURCE_EXHAUSTED: Error writing local file "/disk/a": Failed to write'
    text += " [os_error_code='28']"
    probe(raises(ValueError(text)))
    done = run("probe", "a.yml")
    assert (done.code, done.err) == (4, "error: /disk/a: No space left on device\n")


def test_ctrl_c(run, probe):
    probe(raises(KeyboardInterrupt()))
    done = run("probe", "a.yml")
    assert (done.code, done.err) == (130, "interrupted\n")


def test_json_is_one_document_whatever_is_printed(run, probe):
    def function(args):
        console.out("text for people")
        print("a stray print of a library")
        console.emit_json({"value": 1})

    probe(function)
    done = run("probe", "a.yml", "--json")
    assert (done.code, done.json) == (0, {"value": 1})
    assert "text for people" in done.err and "stray" in done.err


def test_json_where_a_verb_prints_none_or_fails_after_it(run, probe):
    probe(lambda args: 3)
    assert run("probe", "a.yml", "--json").json == {"exit_code": 3}

    def fails(args):
        console.emit_json({"verdict": "FAIL"})
        raise errors.DifferenceError("2 leaves differ")

    probe(fails)
    done = run("probe", "a.yml", "--json")
    assert (done.code, done.json, done.err) == (
        1,
        {"verdict": "FAIL"},
        "error: 2 leaves differ\n",
    )

    def twice(args):
        console.emit_json(1)
        console.emit_json(2)

    probe(twice)
    done = run("probe", "a.yml", "--json")
    assert (done.code, done.json) == (70, 1)


def test_a_reader_that_leaves_is_no_reason_for_noise():
    """`maxmig ... | head -1`: quiet, but not a success, since the result was not delivered."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "maxmig", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert writer.stdout is not None and writer.stderr is not None
    writer.stdout.close()
    assert (writer.stderr.read(), writer.wait()) == (b"", 4)
    writer.stderr.close()


def test_flag_file(run, probe, tmp_path):
    seen = []
    probe(seen.append)
    (tmp_path / "my.flags").write_text("--level=7\n--quiet\n")
    assert run("probe", "a.yml", f"--flagfile={tmp_path / 'my.flags'}").code == 0
    assert (seen[0].level, seen[0].quiet) == (7, True)


def test_help_of_a_group_and_of_its_verbs(run, probe):
    probe(lambda args: 0)
    group = run("group", "--help").out
    assert "Two commands." in group and "maxmig one a.yml" in group
    verb = run("group", "one", "--help").out
    assert verb.rstrip().splitlines()[-2:] == ["  maxmig one a.yml", "  maxmig one a.yml steps=3"]


def test_a_verb_needs_two_examples():
    with pytest.raises(ValueError, match="two examples"):
        Verb("x", "h", ("maxmig x",), lambda parser: None, lambda args: 0)
