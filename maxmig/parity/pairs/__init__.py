"""Parity of two modules of a user's own: a Linen module, an NNX module, and inputs for both.

report = pairs.run("my_package.migration:mlp")
if not report:
    print(report.summary)
"""

from maxmig.parity.pairs.engine import run
from maxmig.parity.pairs.mapping import Mapping
from maxmig.parity.pairs.pair import Pair, load

__all__ = ["Mapping", "Pair", "load", "run"]
