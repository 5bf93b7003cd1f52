"""Two rungs of the ladder held against one another, level by level.

engine: the whole run. request, attest: what was asked for, and what really runs. proofs: L0 and
L1. native, checks, truth: L2. behaviour, decode: L3. localize: where they differ first. noise: one
rung against itself.
"""
