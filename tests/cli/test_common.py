"""CONFIG, overrides and simulated devices."""

import argparse
import subprocess
import sys
import types

import jax
import pytest

import maxmig
from maxmig import errors
from maxmig.cli import common


def parse(*words: str, optional: bool = False) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    common.add_config_arguments(parser, optional=optional)
    return parser.parse_args(words)


@pytest.fixture
def load(monkeypatch):
    """`common.load_config`, where the configuration's loader says what it was given."""
    module = types.ModuleType("maxmig.config")
    module.load = lambda path, overrides: (path, overrides)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maxmig.config", module)
    monkeypatch.setattr(maxmig, "config", module, raising=False)
    return common.load_config


def test_load_config(load, tmp_path, monkeypatch):
    assert load(parse("a.yml", "steps=3")) == ("a.yml", ["steps=3"])
    assert load(parse(optional=True)) == (None, [])
    assert load(parse("steps=3", "x=y=z", optional=True)) == (None, ["steps=3", "x=y=z"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1.yml").write_text("")
    assert load(parse("lr=1.yml", optional=True)) == ("lr=1.yml", [])


@pytest.mark.parametrize("word", ["steps", "=3", "extra.yml"])
def test_an_override_without_a_key_is_named(load, word):
    with pytest.raises(errors.ConfigError, match=f"key=value after CONFIG, got '{word}'"):
        load(parse("a.yml", "steps=3", word))


def test_devices_cannot_change_under_a_running_jax(monkeypatch):
    count = jax.device_count()
    monkeypatch.setenv("XLA_FLAGS", f"--xla_force_host_platform_device_count={count}")
    common.setup_devices(None)
    common.setup_devices(count)
    with pytest.raises(errors.PreflightError, match=rf"--simulate-devices 3: .* {count} device"):
        common.setup_devices(3)


def test_simulated_devices_in_a_new_process():
    code = (
        "import os; os.environ['XLA_FLAGS'] = "
        "'--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=false';"
        "from maxmig.cli import common; common.setup_devices(3);"
        "import jax; print(jax.device_count(), os.environ['XLA_FLAGS'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    flags = "--xla_cpu_enable_fast_math=false --xla_force_host_platform_device_count=3"
    assert done.stdout == f"3 {flags}\n"
