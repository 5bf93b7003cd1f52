"""Level 1: both programs evaluated in float64, and the first equation that differs.

result = shadow.compare(control, candidate, inputs)
"""

from maxmig.parity.shadow.comparison import compare, evaluate
from maxmig.parity.shadow.isolate import isolate
from maxmig.parity.shadow.ratio import Ratio, error_against_truth
from maxmig.parity.shadow.results import Error, First, Layer, Module, Shadow

__all__ = [
    "Error",
    "First",
    "Layer",
    "Module",
    "Ratio",
    "Shadow",
    "compare",
    "error_against_truth",
    "evaluate",
    "isolate",
]
