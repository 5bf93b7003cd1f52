"""Applying: on evidence, exactly as planned, all files or none."""

import datetime
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import CONFIG

from maxmig.config import Stage
from maxmig.errors import ConfigError, DataError, PreflightError
from maxmig.rollout import apply, evidence, files, ledger, plan
from maxmig.rollout.choice import Choice
from maxmig.rollout.era import Era

DAY = datetime.timedelta(days=1)


def step(*names: str, to: Stage = Stage.NNX, **options: Any) -> plan.Plan:
    return plan.make(names or ["run.yml"], to, **options)


def test_a_good_card_lets_it_through(config: Path, card: Callable[..., Path]) -> None:
    done = apply.apply(step(), [card()], command="maxmig flags apply plan.json")
    assert config.read_text() == CONFIG + "enable_nnx: true\n"
    (entry,) = ledger.read(Path(".maxmig-ledger.jsonl")).entries
    assert done.entry is not None
    assert entry.id == done.entry.id
    assert (entry.kind, entry.state, entry.assured) == ("apply", ledger.DONE, None)
    assert entry.command == "maxmig flags apply plan.json"
    assert "@" in entry.who
    (file,) = entry.files
    assert file.evidence is not None
    assert file.evidence["verdict"] == "PASS"
    assert file.evidence["card"].endswith("card.yaml")
    assert (file.control, file.candidate) == ("linen", "bridged-decoder")


def test_a_proof_alone_is_enough(config: Path, card: Callable[..., Path]) -> None:
    assert apply.apply(step(), [card(level="static", coverage={"steps": 0})]).entry


def test_the_folder_of_a_run_is_a_card_too(config: Path, card: Callable[..., Path]) -> None:
    card(name="run/card.yaml")
    assert apply.apply(step(), [Path("run")]).entry


CARDS = [
    ({"verdict": "FAIL"}, "its verdict is FAIL, not PASS"),
    ({"verdict": "INCONCLUSIVE"}, "its verdict is INCONCLUSIVE"),
    ({"control": "bridged", "candidate": "hybrid"}, "it is about bridged -> hybrid"),
    ({"control": "bridged-decoder", "candidate": "linen"}, "it is about bridged-decoder -> linen"),
    ({"config_digest": "0" * 64}, "the configuration changed after it was made"),
    ({"code_digest": "0" * 64}, "maxmig's code is not the one that made it"),
    ({"age": 15 * DAY}, "it is 15.0 days old, and may be 14.0 days old at most"),
    ({"age": -DAY}, "made in the future"),
    ({"coverage": {"steps": 5, "only": ["logits"]}}, "logits only"),
    ({"coverage": {"steps": 5, "faults": ["a fault was put in on purpose"]}}, "on purpose"),
    ({"coverage": {"steps": 0}}, "no optimizer step was compared"),
    ({"level": "behaviour"}, "neither a proof (L0) nor real arrays (L2) passed"),
]


@pytest.mark.parametrize(("facts", "says"), CARDS)
def test_a_bad_card_is_refused(
    config: Path, card: Callable[..., Path], facts: dict[str, Any], says: str
) -> None:
    with pytest.raises(PreflightError) as caught:
        apply.apply(step(), [card(**facts)])
    assert says in str(caught.value)
    assert "--assured" in str(caught.value)
    assert config.read_text() == CONFIG
    assert not Path(".maxmig-ledger.jsonl").exists()


def test_a_forged_card_is_refused(config: Path, card: Callable[..., Path]) -> None:
    path = card(verdict="FAIL")
    path.write_text(path.read_text().replace("FAIL", "PASS"))
    with pytest.raises(PreflightError, match="its seal does not fit"):
        apply.apply(step(), [path])


def test_a_configuration_that_changed_after_its_card(
    config: Path, card: Callable[..., Path]
) -> None:
    path = card()
    config.write_text(CONFIG.replace("steps: 4", "steps: 5"))
    with pytest.raises(PreflightError, match="the configuration changed after it was made"):
        apply.apply(step(), [path])


def test_the_flags_have_no_say_in_the_card(config: Path, card: Callable[..., Path]) -> None:
    """A card made before the first step is good for the step that it is about, at any rung."""
    path = card(control="bridged-decoder", candidate="bridged")
    apply.apply(step(), assured="first step")
    assert apply.apply(step(), [path]).entry


def test_the_maximal_age_is_a_choice(config: Path, card: Callable[..., Path]) -> None:
    path = card(age=3 * DAY)
    with pytest.raises(PreflightError, match=r"3\.0 days old"):
        apply.apply(step(), [path], max_age=2 * DAY)
    assert apply.apply(step(), [path], max_age=4 * DAY).entry


def test_durations() -> None:
    assert [evidence.age(text) / DAY for text in ("14d", "36h", "1.5d", "2w", "720m")] == [
        14,
        1.5,
        1.5,
        14,
        0.5,
    ]
    for text in ("14", "d", "-1d", "14 days", "", "9e9d", f"{'9' * 30}w"):
        with pytest.raises(ConfigError, match="expected a duration"):
            evidence.age(text)


def test_no_card(config: Path) -> None:
    with pytest.raises(PreflightError) as caught:
        apply.apply(step())
    assert "maxmig parity run run.yml --control linen --candidate bridged-decoder" in str(
        caught.value
    )
    with pytest.raises(DataError, match="no such card"):
        apply.apply(step(), [Path("missing.yaml")])
    Path("odd.yaml").write_text("a: 1\n")
    with pytest.raises(DataError, match="expected a card"):
        apply.apply(step(), [Path("odd.yaml")])


def test_an_override_is_recorded(config: Path) -> None:
    done = apply.apply(step(), assured="ticket 42")
    assert done.entry is not None
    assert done.entry.assured == "ticket 42"
    assert "no card was given" in done.entry.overridden[0]
    (entry,) = ledger.read(Path(".maxmig-ledger.jsonl")).entries
    assert (entry.assured, entry.overridden) == ("ticket 42", done.entry.overridden)


def test_an_override_that_was_not_needed_is_not_recorded(
    config: Path, card: Callable[..., Path]
) -> None:
    done = apply.apply(step(), [card()], assured="just in case")
    assert done.entry is not None
    assert (done.entry.assured, done.entry.overridden) == (None, ())


def test_a_danger_can_be_overridden_and_is_recorded(here: Path) -> None:
    Path("mt.yml").write_text("pure_nnx: true\nenable_diloco: true\n")
    made = step("mt.yml", to=Stage.BRIDGED, choice=Choice(era=Era.DEFAULT_TRUE), direct=True)
    with pytest.raises(PreflightError, match="enable_diloco: true needs pure_nnx"):
        apply.apply(made)
    done = apply.apply(made, assured="our fork can")
    assert done.entry is not None
    assert any("enable_diloco" in text for text in done.entry.overridden)


def test_the_impossible_cannot_be_overridden(config: Path) -> None:
    config.write_text("stepz: 1\n")
    with pytest.raises(PreflightError, match="cannot be carried out"):
        apply.apply(step(), assured="please")


# Drift


def test_a_file_that_changed_since_the_plan(config: Path) -> None:
    made = step()
    config.write_text(CONFIG + "# a comment\n")
    with pytest.raises(PreflightError, match=r"run\.yml: the file changed since the plan"):
        apply.apply(made, assured="no reason helps")
    assert config.read_text() == CONFIG + "# a comment\n"


def test_a_parent_that_changed_since_the_plan(config: Path) -> None:
    Path("parent.yml").write_text("base_config: tiny_llama2.yml\n")
    config.write_text("base_config: parent.yml\n")
    made = step()
    Path("parent.yml").write_text("base_config: tiny_llama2.yml\nenable_nnx: true\n")
    with pytest.raises(PreflightError, match=r"parent\.yml, on which it stands, changed"):
        apply.apply(made, assured="no reason helps")
    Path("parent.yml").unlink()
    with pytest.raises(PreflightError, match=r"parent\.yml, on which it stands, changed"):
        apply.apply(made, assured="no reason helps")


def test_a_file_that_is_gone(config: Path) -> None:
    made = step()
    config.unlink()
    with pytest.raises(DataError, match=r"run\.yml: no such file"):
        apply.apply(made, assured="x")


def test_applying_twice_does_nothing(config: Path) -> None:
    made = step()
    apply.apply(made, assured="x")
    done = apply.apply(made)
    assert (done.entry, done.files) == (None, ())
    assert len(ledger.read(Path(".maxmig-ledger.jsonl")).entries) == 1


# All or none


def two(here: Path) -> plan.Plan:
    for name in ("a.yml", "b.yml"):
        (here / name).write_text(CONFIG)
    return step("a.yml", "b.yml")


def test_several_files_in_one_entry(here: Path, card: Callable[..., Path]) -> None:
    made = two(here)
    done = apply.apply(made, [card("a.yml")])  # the same configuration: one card for both
    assert done.entry is not None
    assert [file.path for file in done.entry.files] == ["a.yml", "b.yml"]
    assert Path("a.yml").read_text() == Path("b.yml").read_text() == CONFIG + "enable_nnx: true\n"


def test_one_bad_file_stops_all(here: Path, card: Callable[..., Path]) -> None:
    (here / "a.yml").write_text(CONFIG)
    (here / "b.yml").write_text(CONFIG.replace("steps: 4", "steps: 6"))
    with pytest.raises(PreflightError, match=r"  - b\.yml: card"):
        apply.apply(step("a.yml", "b.yml"), [Path(os.path.relpath(card("a.yml")))])
    assert (here / "a.yml").read_text() == CONFIG


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failed_write_leaves_all_as_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    made = two(here)
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(DataError, match="No space left on device"):
        apply.apply(made, assured="x")
    monkeypatch.undo()
    os.chdir(here)
    assert [Path(name).read_text() for name in ("a.yml", "b.yml")] == [CONFIG, CONFIG]
    assert sorted(path.name for path in here.iterdir()) == [
        ".maxmig-ledger.jsonl",
        "a.yml",
        "b.yml",
    ]
    (entry,) = ledger.read(here / ".maxmig-ledger.jsonl").entries
    assert entry.state == ledger.ABANDONED


def test_an_interrupt_leaves_all_as_it_was(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = two(here)
    real, calls = Path.replace, []

    def replace(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        apply.apply(made, assured="x")
    assert (here / "a.yml").read_text() == CONFIG


def test_a_file_that_changes_in_the_last_moment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two(here)
    real = ledger.begin

    def begin(path: Path, entry: ledger.Entry) -> None:
        real(path, entry)
        (here / "b.yml").write_text("steps: 9\n")

    monkeypatch.setattr(ledger, "begin", begin)
    with pytest.raises(PreflightError, match="changed just now; nothing was written"):
        apply.apply(made, assured="x")
    assert (here / "a.yml").read_text() == CONFIG


def test_a_read_only_file(config: Path) -> None:
    made = step()
    config.chmod(0o444)
    with pytest.raises(DataError, match=r"run\.yml: the file is read-only; `chmod u\+w"):
        apply.apply(made, assured="x")
    assert config.read_text() == CONFIG
    assert not Path(".maxmig-ledger.jsonl").exists()


def test_a_ledger_that_cannot_be_written(config: Path) -> None:
    Path(".maxmig-ledger.jsonl").mkdir()
    with pytest.raises(DataError, match="the ledger cannot be written"):
        apply.apply(step(), assured="x")
    assert config.read_text() == CONFIG


def test_the_mode_and_a_link_stay(here: Path) -> None:
    (here / "real").mkdir()
    target = here / "real" / "run.yml"
    target.write_text(CONFIG)
    target.chmod(0o640)
    (here / "run.yml").symlink_to(target)
    apply.apply(step(), assured="x")
    assert (here / "run.yml").is_symlink()
    assert target.read_text().endswith("enable_nnx: true\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_dry_run_writes_nothing(config: Path) -> None:
    done = apply.apply(step(), assured="x", dry_run=True)
    assert done.entry is None
    assert "+enable_nnx: true" in done.files[0].diff
    assert config.read_text() == CONFIG
    assert not Path(".maxmig-ledger.jsonl").exists()


def test_what_is_on_the_disk_is_proved(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the proof: a writer that spoils another byte is caught."""
    real = files.commit

    def commit(writes: list[files.Write]) -> None:
        real(writes)
        config.write_text(config.read_text().replace("small run", "smart run"))

    monkeypatch.setattr(files, "commit", commit)
    with pytest.raises(PreflightError, match="BUT other bytes differ"):
        apply.apply(step(), assured="x")


BYTES = {
    "crlf": b"base_config: tiny_llama2.yml\r\nsteps: 4\r\n",
    "no newline": b"base_config: tiny_llama2.yml\nsteps: 4",
    "bom": b"\xef\xbb\xbfbase_config: tiny_llama2.yml\nsteps: 4\n",
    "flow": b"{base_config: tiny_llama2.yml, steps: 4}\n",
    "comments": b"# a\nbase_config: tiny_llama2.yml # b\n#c",
    "indented": b"  base_config: tiny_llama2.yml\n  steps: 4\n",
}


@pytest.mark.parametrize("raw", BYTES.values(), ids=BYTES)
def test_every_manner_goes_up_and_back(config: Path, raw: bytes) -> None:
    from maxmig import config as configuration
    from maxmig.rollout import rollback

    config.write_bytes(raw)
    done = apply.apply(step(direct=True), assured="x")
    assert configuration.load(config).flags.stage is Stage.NNX
    assert (b"\r\n" in config.read_bytes()) == (b"\r\n" in raw)
    assert done.entry is not None
    rollback.rollback(Path(".maxmig-ledger.jsonl"), done.entry.id)
    assert config.read_bytes() == raw


BAD = [
    ("steps: 1\nsteps: 2\n", "run.yml:2: ", "steps"),
    ("pure_nnx: 'true'\n", "run.yml:1: pure_nnx: ", "it is in quotes"),
    ("pure_nnx: yes\n", "run.yml:1: pure_nnx: ", "write true or false"),
    ("a: &x 1\nb: *x\n", "run.yml:2: ", "aliases"),
    ("steps:\t1\n", "run.yml:1: ", "a tab stands between tokens"),
    ("a: 1\n---\nb: 1\n", "run.yml:2: ", "not valid YAML"),
    ("- 1\n", "run.yml: ", "a list"),
]


@pytest.mark.parametrize(("text", "place", "says"), BAD)
def test_bad_files_are_refused_with_their_line(
    run: Callable[..., Any], config: Path, text: str, place: str, says: str
) -> None:
    config.write_text(text)
    done = run("plan", "--to", "nnx", "run.yml")
    told = done.out + done.err
    assert done.code in (2, 5)
    assert place in told
    assert says in told
    assert "Traceback" not in told


def test_the_command_line(run: Callable[..., Any], config: Path, card: Callable[..., Path]) -> None:
    path = card()
    run("plan", "--to", "nnx", "run.yml", "-o", "plan.json")
    done = run("apply", "plan.json")
    assert (done.code, "refused; nothing was changed" in done.err) == (5, True)
    done = run("apply", "plan.json", "--assured", "  ")
    assert (done.code, "expected a reason" in done.err) == (2, True)
    done = run("apply", "plan.json", "--card", path, "--max-age", "soon")
    assert (done.code, "expected a duration" in done.err) == (2, True)
    done = run("apply", "plan.json", "--card", path, "--dry-run")
    assert (done.code, "dry run: nothing was written" in done.out) == (0, True)
    done = run("apply", "plan.json", "--card", path, "--json")
    assert done.code == 0
    assert done.json["files"][0]["proof"]["lines"] == 1
    assert done.json["files"][0]["vcs"] is None
    assert config.read_text() == CONFIG + "enable_nnx: true\n"
    done = run("apply", "plan.json", "--card", path)
    assert (done.code, "nothing to change" in done.out) == (0, True)


def test_a_file_under_version_control(
    run: Callable[..., Any], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import subprocess

    for key in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(key, raising=False)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "run.yml"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    run("plan", "--to", "nnx", "run.yml", "-o", "plan.json")
    done = run("apply", "plan.json", "--assured", "x")
    assert "not under version control" not in done.err
    (entry,) = run("log", "--json").json["ledgers"][0]["entries"]
    commit = entry["files"][0]["vcs"]
    assert commit
    assert not commit.endswith("+")
