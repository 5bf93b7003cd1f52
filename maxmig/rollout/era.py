"""Whose flags they are: maxmig's, or those of a MaxText of one of its eras.

MaxText's flags have had three lives: false by default, true by default (since 0.2.4), and removed
(0.2.5), after which a file that names one no longer loads. Which one is installed is read from the
fields of its configuration types, as source text: importing MaxText would take half a minute.
"""

import ast
import enum
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig.config.flags import KEYS
from maxmig.errors import ConfigError, DataError
from maxmig.rollout.document import Document

_PACKAGES = ("maxtext", "MaxText")


class Era(enum.Enum):
    """What a framework takes the three flags to be when nobody says."""

    DEFAULT_FALSE = "default-false"
    DEFAULT_TRUE = "default-true"
    REMOVED = "removed"

    @property
    def text(self) -> str:
        """The era in words."""
        return _TEXTS[self]


_TEXTS = {
    Era.DEFAULT_FALSE: "the flags default to false",
    Era.DEFAULT_TRUE: "the flags default to true; false is deprecated, and the keys will go",
    Era.REMOVED: "the flags are gone: a file that names one does not load, and NNX is all there is",
}


@dataclass(frozen=True)
class Framework:
    """Who reads the configuration.

    Attributes:
        name: maxmig or maxtext.
        version: of the package, or "" if it is not known.
        era: what the flags default to.
        defaults: the flags that it has, each with its default.
        folder: where its own configurations are, None if it is not here.
        found: how all this is known.
    """

    name: str
    version: str
    era: Era
    defaults: Mapping[str, bool]
    folder: Path | None
    found: str

    @property
    def title(self) -> str:
        """Name and version."""
        name = "MaxText" if self.name == "maxtext" else self.name
        return f"{name} {self.version}".strip()

    def default(self, key: str) -> bool:
        """The value in force for a key that no file gives; without the keys NNX is all there is."""
        return self.defaults.get(key, self.era is Era.REMOVED)

    def document(self) -> dict[str, Any]:
        """The framework as plain types."""
        return {
            "name": self.name,
            "version": self.version,
            "era": self.era.value,
            "defaults": dict(self.defaults),
            "found": self.found,
        }


def maxmig() -> Framework:
    """This framework."""
    from maxmig import __version__
    from maxmig.config.chain import PACKAGED

    defaults = dict.fromkeys(KEYS, False)
    found = "maxmig's own configuration"
    return Framework("maxmig", __version__, Era.DEFAULT_FALSE, defaults, PACKAGED, found)


def told(era: Era, folder: Path | None = None) -> Framework:
    """A MaxText of an era that the user names."""
    gone = era is Era.REMOVED
    defaults = {} if gone else dict.fromkeys(KEYS, era is Era.DEFAULT_TRUE)
    return Framework("maxtext", "", era, defaults, folder, f"--era {era.value}")


def installed() -> Framework | None:
    """The MaxText of this environment; None if there is none."""
    for name in _PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        for place in (spec.submodule_search_locations or ()) if spec else ():
            configs = Path(place) / "configs"
            if configs.is_dir():
                return _read(configs, _version(name))
    return None


def at(folder: Path) -> Framework:
    """The MaxText of a checkout, or of an installed package's folder.

    Raises:
        DataError: there is none.
    """
    below = ("", "maxtext", "src/maxtext", "MaxText", "src/MaxText")
    for part in below:
        configs = folder / part / "configs"
        if (configs / "base.yml").is_file() or (configs / "types.py").is_file():
            return _read(configs, _version_beside(configs.parent))
    raise DataError(
        f"{folder}: no MaxText there: expected configs/base.yml in it or in one of "
        f"{', '.join(part for part in below if part)}"
    )


def _read(configs: Path, version: str) -> Framework:
    types, base = configs / "types.py", configs / "base.yml"
    if types.is_file():
        defaults, source = _fields(types), types
    elif base.is_file():  # before it had types, a key was known if base.yml had it
        defaults, source = _values(base), base
    else:
        raise DataError(f"{configs}: neither types.py nor base.yml; name the era with --era")
    if defaults:
        era = Era.DEFAULT_TRUE if all(defaults.values()) else Era.DEFAULT_FALSE
    elif types.is_file():
        era = Era.REMOVED
    else:
        raise ConfigError(f"{base}: this MaxText is older than the flags: it has only Linen")
    return Framework("maxtext", version, era, defaults, configs, f"read from {source}")


def _fields(path: Path) -> dict[str, bool]:
    """The flags among the fields of the configuration's classes, with their defaults."""
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}); name the era with --era") from None
    found: dict[str, bool] = {}
    for owner in ast.walk(tree):
        for node in owner.body if isinstance(owner, ast.ClassDef) else ():
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                name = node.target.id
                if name in KEYS:
                    found[name] = _default(node.value)
    return {key: found[key] for key in KEYS if key in found}


def _default(node: ast.expr | None) -> bool:
    if isinstance(node, ast.Call):
        given = [word.value for word in node.keywords if word.arg == "default"]
        node = (*node.args, *given)[0] if node.args or given else None
    return bool(node.value) if isinstance(node, ast.Constant) else False


def _values(base: Path) -> dict[str, bool]:
    doc = Document.read(base)
    found = {item.key: item.scalar for item in doc.items()}
    return {
        key: scalar.value.lower() == "true"
        for key in KEYS
        if (scalar := found.get(key)) is not None
    }


def _version_beside(package: Path) -> str:
    """The version of a package that lies in a folder: of its metadata, or of its version.py."""
    for info in package.parent.glob(f"{package.name.lower()}-*.dist-info"):
        return info.name.removesuffix(".dist-info").partition("-")[2]
    version = package / "version.py"
    text = version.read_text("utf-8") if version.is_file() else ""
    match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)", text, re.MULTILINE)
    return match[1] if match else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
