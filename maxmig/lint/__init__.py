"""Traps of a migration that can be seen in the source: `lint.check(["src"])`.

Nothing of the source is imported or run, and nothing heavy is needed to read it.
"""

from maxmig.lint.check import check
from maxmig.lint.rules import RULES
from maxmig.lint.source import Finding, Rule

__all__ = ["RULES", "Finding", "Rule", "check"]
