"""The options that say whose configuration a file is: maxmig's, or that of some MaxText."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.rollout.choice import Choice
    from maxmig.rollout.effective import Effective

# The eras of maxmig.rollout.era.Era, which is too heavy to import for --help; a test compares them.
ERAS = ("default-false", "default-true", "removed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--framework`, `--era` and `--maxtext`."""
    group = parser.add_argument_group("whose configuration it is")
    group.add_argument(
        "--framework",
        choices=("auto", "maxmig", "maxtext"),
        default="auto",
        help="who reads it (default: auto, told by its keys)",
    )
    group.add_argument(
        "--era",
        choices=ERAS,
        help="what MaxText takes the flags to be, if it is not installed here (default: read from "
        "the installed package)",
    )
    group.add_argument(
        "--maxtext", metavar="DIR", help="a MaxText checkout or package, instead of the installed"
    )


def choice(args: argparse.Namespace) -> "Choice":
    """What the options say.

    Raises:
        ConfigError: they contradict each other.
    """
    from maxmig.rollout.choice import Choice
    from maxmig.rollout.era import Era

    era = Era(args.era) if args.era else None
    folder = Path(args.maxtext) if args.maxtext else None
    if args.framework == "maxmig" and (era or folder):
        raise errors.ConfigError("--era and --maxtext are about MaxText, not maxmig")
    return Choice(args.framework, era, folder)


def maxtext(args: argparse.Namespace) -> "Effective | None":
    """The file that CONFIG names if it is MaxText's; None if it is maxmig's.

    Raises:
        ConfigError: MaxText was asked for, without a file or with overrides.
    """
    chosen, name = choice(args), args.config
    plain = chosen.framework in ("auto", "maxmig") and not (chosen.era or chosen.folder)
    if name is None or not Path(name).is_file():
        if not plain:
            raise errors.ConfigError(f"expected a YAML file of MaxText, got {name or 'nothing'}")
        return None
    if chosen.of(Path(name), name).name == "maxmig":
        return None
    if args.overrides:
        raise errors.ConfigError(
            f"key=value ({args.overrides[0]}) is for maxmig's configurations; {name} is MaxText's"
        )
    return chosen.read(name)


def split_configs(configs: list[str], rest: list[str]) -> list[str]:
    """The files of a verb that takes several; a `key=value` among them is refused."""
    names = [*configs, *rest]
    for name in names:
        if "=" in name and not Path(name).exists():
            raise errors.ConfigError(
                f"expected configuration files, got {name!r}: what is changed is what the file "
                "says, so key=value has no place here"
            )
    return names
