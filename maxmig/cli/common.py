"""Arguments that many verbs share: CONFIG with its `key=value` overrides, simulated devices."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.config import Config

_DEVICE_FLAG = "--xla_force_host_platform_device_count"


def add_config_arguments(parser: argparse.ArgumentParser, *, optional: str = "") -> None:
    """Adds CONFIG, the trailing `key=value` overrides and `--simulate-devices`.

    Args:
        parser: the verb's parser.
        optional: CONFIG may be left out; what holds then, for the help.
    """
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?" if optional else None,
        help="YAML file, or the name of a built-in configuration such as demo"
        + (f" ({optional})" if optional else ""),
    )
    parser.add_argument(
        "overrides",
        metavar="key=value",
        nargs="*",
        default=[],
        help="settings that win over the file, for example steps=20",
    )
    add_device_arguments(parser)


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--simulate-devices N`."""
    parser.add_argument(
        "--simulate-devices",
        type=positive,
        metavar="N",
        help="run on N simulated devices of this CPU, to try a mesh without an accelerator",
    )


def load_config(args: argparse.Namespace, default: str | None = None) -> "Config":
    """The configuration that the arguments ask for; sets up simulated devices as well.

    Args:
        args: with `config` and `overrides`.
        default: the configuration when none is given; None is the base configuration.

    Raises:
        ConfigError: an override is not `key=value`, or the configuration is not valid.
    """
    setup_devices(getattr(args, "simulate_devices", None))
    path, overrides = args.config, list(args.overrides)
    # With an optional CONFIG the parser cannot tell a leading override from a file.
    if path is not None and "=" in path and not Path(path).exists():
        path, overrides = None, [path, *overrides]
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key.strip():
            raise errors.ConfigError(
                f"expected an override of the form key=value after CONFIG, got {override!r}; "
                "quote values that hold spaces, for example prompt='two words'"
            )
    from maxmig import config

    return config.load(path or default, overrides)


def setup_devices(count: int | None) -> None:
    """Makes this process see `count` CPU devices; None leaves all as it is.

    XLA reads the number once, when its backend starts, so this must come before.

    Raises:
        PreflightError: JAX runs already, with another number of devices.
    """
    if count is None:
        return
    others = re.sub(rf"{_DEVICE_FLAG}=\S*", "", os.environ.get("XLA_FLAGS", "")).split()
    os.environ["XLA_FLAGS"] = " ".join([*others, f"{_DEVICE_FLAG}={count}"])
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        import jax

        if jax.device_count() != count:
            raise errors.PreflightError(
                f"--simulate-devices {count}: JAX was started in this process with "
                f"{jax.device_count()} device(s); simulate devices in a new process"
            )


def add_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--checkpoint DIR`."""
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="a checkpoint directory, of either layout (default: the last one of the run)",
    )


def positive(text: str) -> int:
    """An argument that counts something.

    Raises:
        ArgumentTypeError: it is no whole number, or less than 1.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value
