"""Level 1: both programs evaluated in float64, and the first equation that differs.

result = shadow.compare(control, candidate, inputs)
"""

from maxmig.parity.shadow.compare import compare, evaluate
from maxmig.parity.shadow.isolate import isolate
from maxmig.parity.shadow.results import Error, First, Layer, Module, Shadow
from maxmig.parity.shadow.truth import Ratio, error_against_truth

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
