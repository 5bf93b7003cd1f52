"""Configuration: `load` reads it, `Config` holds it, `Stage` names what the three flags select."""

from maxmig.config.chain import load
from maxmig.config.flags import LADDER, Stage
from maxmig.config.schema import Config, Link, Origin

__all__ = ["LADDER", "Config", "Link", "Origin", "Stage", "load"]
