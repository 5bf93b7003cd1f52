"""Faults and bugs to put into a side on purpose: a check that has never failed proves nothing.

report = parity.run(cfg, fault=faults.setting(learning_rate=1e-3))
"""

from maxmig.parity.faults.fault import (
    Broken,
    Fault,
    dropped_gradient,
    perturbed,
    setting,
    swapped,
)

__all__ = ["Broken", "Fault", "dropped_gradient", "perturbed", "setting", "swapped"]
