"""Level 0: a proof, without weights or devices, that two programs compute the same.

proof = static.prove(control, candidate)
"""

from maxmig.parity.static.proof import fingerprints, prove
from maxmig.parity.static.results import Cast, Divergence, Equation, Proof

__all__ = ["Cast", "Divergence", "Equation", "Proof", "fingerprints", "prove"]
