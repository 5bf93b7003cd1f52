"""`maxmig ckpt convert`: the engine's options, several processes, and what is told."""

import functools
import json
import os
import subprocess
import sys

import pytest
from engine_cases import contents


@pytest.fixture
def maxmig(maxmig):
    """Runs `ckpt convert`: maxmig(SRC, DST, ...) -> (exit code, stdout, stderr)."""
    return functools.partial(maxmig, "ckpt", "convert")


def test_the_plan_is_told_and_a_dry_run_stops_there(maxmig, source, tmp_path):
    src = source("llama2_linen_scan")
    code, out, _ = maxmig(src, tmp_path / "dst", "--to", "nnx", "--no-scan", "--dry-run", "--json")
    told = json.loads(out)
    assert code == 0 and not (tmp_path / "dst").exists()
    routes = {row["route"]: row for row in told["routes"]}
    assert routes["stream"]["arrays"] == 109 and routes["reference"]["arrays"] == 11
    assert "a chunk holds 4 layers (108)" in routes["stream"]["why"]
    assert told["memory_floor"] > 0 and told["disk"] == routes["stream"]["bytes"]
    code, out, _ = maxmig(src, tmp_path / "dst", "--to", "nnx", "--no-scan", "--dry-run")
    assert "preflight  memory floor" in out and "of 4.0 GiB" in out and "dry run" in out


def test_a_small_budget_is_refused(maxmig, source, tmp_path):
    src = source("llama2_linen_scan")
    code, _, err = maxmig(src, tmp_path / "dst", "--to", "nnx", "--no-scan", "--max-memory", "9MiB")
    assert code == 5 and "--max-memory 192MiB or more" in err
    code, _, err = maxmig(src, tmp_path / "dst", "--to", "nnx", "--max-memory", "lots")
    assert code == 2 and "expected a size such as 512MiB" in err


@pytest.mark.parametrize(
    "options",
    [
        ("--copy",),
        ("--no-ocdbt",),
        ("--zarr", 2, "--verify", "deep"),
        ("--verify", "sample", "--chunk", "64KiB"),
    ],
    ids=str,
)
def test_every_form_holds_the_same(maxmig, source, tmp_path, options):
    src = source("gpt3_nnx_scan")
    assert maxmig(src, tmp_path / "a", "--to", "nnx", "--no-scan", "--verify", "none")[0] == 0
    code, out, err = maxmig(src, tmp_path / "b", "--to", "nnx", "--no-scan", *options)
    assert code == 0, err
    assert "verified" in out and contents(tmp_path / "a") == contents(tmp_path / "b")


def test_two_processes_share_the_work(source, tmp_path, maxmig):
    src = source("gpt3_nnx_scan")
    words = ["ckpt", "convert", str(src), str(tmp_path / "two"), "--to", "nnx", "--no-scan"]
    command = [sys.executable, "-m", "maxmig.cli.main", *words, "--processes", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step_directory"] == str(tmp_path / "two" / "9")
    assert maxmig(src, tmp_path / "one", "--to", "nnx", "--no-scan")[0] == 0
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert again.returncode == 4 and "exists already" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
