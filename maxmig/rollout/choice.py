"""Which framework a file is for: as the user says, or as its keys tell."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from maxmig import config
from maxmig.config import maxtext_keys
from maxmig.errors import ConfigError, MaxmigError
from maxmig.rollout import effective, era
from maxmig.rollout.document import Document
from maxmig.rollout.effective import Effective
from maxmig.rollout.era import Era, Framework


@dataclass(frozen=True)
class Choice:
    """What the user said about the framework; every part may be missing.

    Attributes:
        framework: auto, maxmig or maxtext.
        era: of a MaxText that is not here.
        folder: a MaxText checkout or package.
    """

    framework: str = "auto"
    era: Era | None = None
    folder: Path | None = None

    def of(self, path: Path, name: str | None = None) -> Framework:
        """The framework of a file.

        Raises:
            ConfigError: it is MaxText's, and no MaxText is here to ask for its era.
        """
        name = str(path) if name is None else name
        if self.framework == "maxmig":
            return era.maxmig()
        if self.folder is not None:
            found = era.at(self.folder)
            return era.told(self.era, found.folder) if self.era else found
        if self.era is not None:
            here = era.installed()
            return era.told(self.era, here.folder if here else None)
        here = era.installed()
        if self.framework == "auto" and not _is_maxtext(path, name, here):
            return era.maxmig()
        if here is None:
            raise ConfigError(
                f"{name}: a configuration of MaxText, which is not installed here; say what it "
                "takes the flags to be with --era default-false, default-true or removed, or "
                "where it is with --maxtext DIR"
            )
        return here

    def read(self, name: str) -> Effective:
        """The effective values of a file.

        Raises:
            DataError: there is no such file.
            ConfigError: it is one of maxmig's own, by its short name.
        """
        path = Path(name)
        if not path.exists():
            inside = config.chain.packaged(name)
            if inside is not None:
                raise ConfigError(
                    f"{name} is a configuration inside maxmig's package: copy it, and change the "
                    "copy"
                )
        return effective.of(path, name, self.of(path, name))


def _is_maxtext(path: Path, name: str, here: Framework | None) -> bool:
    """Keys that only MaxText has make it MaxText's, if MaxText is here or maxmig cannot load it."""
    try:
        doc = Document.read(path, name)
    except ConfigError:
        return False  # whoever reads it will say what is wrong
    seen = {item.key for item in doc.items()} if isinstance(doc.root, yaml.MappingNode) else set()
    if not seen & maxtext_keys.TABLE.keys():
        return False
    if here is not None:
        return True
    try:
        config.load(path)
    except MaxmigError:
        return True
    return False
