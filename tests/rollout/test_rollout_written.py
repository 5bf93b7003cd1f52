"""What is written: the bytes that were planned, in every manner of YAML, in place."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import CONFIG, step

from maxmig.config import Stage
from maxmig.errors import PreflightError
from maxmig.rollout import apply, files


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
