"""`maxmig doctor`: what it finds, and that it can find something."""

import json
import subprocess
import sys

import pytest

from maxmig.cli import doctor

STAGES = ("linen", "bridged-decoder", "bridged", "hybrid", "nnx")


@pytest.fixture(scope="module")
def report():
    """One run in a process of its own, since it asks how JAX starts."""
    done = subprocess.run(
        [sys.executable, "-m", "maxmig", "doctor", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_all_is_well_here(report):
    assert (report["verdict"], report["failed"]) == ("PASS", [])
    verdicts = {check["name"]: check["verdict"] for check in report["checks"]}
    expected = [f"stage {stage}" for stage in STAGES]
    expected += ["devices", "asynchronous checkpoints", "simulated devices"]
    assert verdicts == dict.fromkeys(expected, "PASS")


def test_facts(report):
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["memory"] >= report["machine"]["memory_available"] > 2**20
    assert {"python", "jax", "flax", "optax"} <= {package["name"] for package in report["packages"]}


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        (None, "FAIL"),
        ("0.10.1", "FAIL"),
        ("0.10.2", "PASS"),
        ("0.11.0.dev20260101", "PASS"),
        ("0.12.0.1", "PASS"),
        ("0.12.0.2", "WARN"),
        ("0.13.0rc1", "WARN"),
        ("1.0", "WARN"),
    ],
)
def test_versions_are_judged_by_number(version, verdict):
    assert doctor._judge(version, "0.10.2", "0.12.0.1") == verdict


def test_a_missing_part_is_exit_5(run, monkeypatch):
    def broken() -> str:
        raise ImportError("no module named flax\nand more")

    monkeypatch.setitem(doctor.NEWEST_TESTED, "no-such-package", "1.0")
    trials = (("stage nnx", broken, True), ("extra", broken, False), ("fine", lambda: "ok", True))
    monkeypatch.setattr(doctor, "_TRIALS", trials)
    done = run("doctor")
    assert done.code == 5
    assert "no-such-package" in done.out and "missing" in done.out
    assert "ImportError: no module named flax" in done.out and "and more" not in done.out
    assert "FAIL: no-such-package, stage nnx" in done.out
    done = run("doctor", "--json")
    assert (done.code, done.json["failed"]) == (5, ["no-such-package", "stage nnx"])
    assert {check["name"]: check["verdict"] for check in done.json["checks"]} == {
        "stage nnx": "FAIL",
        "extra": "WARN",
        "fine": "PASS",
    }
