"""Holds the numbers of two programs against one another."""

import dataclasses

from maxmig.parity.programs import Program
from maxmig.parity.static import differ, encode
from maxmig.parity.static.number import Numbering
from maxmig.parity.static.results import Proof


def prove(control: Program, candidate: Program) -> Proof:
    """Finds the outputs that both programs compute alike, and where the others part.

    Inputs are the same where their names are. An output is proved if it is the same function of the
    same inputs, operation by operation, up to rewrites that keep every bit: calls inlined, no-ops
    removed, operands of commutative operations in any order, arguments of loops in any order.
    Rounding is the same on both sides then, unless the compiler chooses otherwise for one of them.
    Whatever cannot be told by its content is not proved, and named.
    """
    ours, theirs = Numbering(), Numbering()
    a, b = ours.program(control), theirs.program(candidate)
    proved, different, unprovable = [], [], []
    for name in (n for n in control.outputs if n in b):
        reasons = _reasons(ours, a[name][0]) | _reasons(theirs, b[name][0])
        if reasons:
            unprovable.append((name, tuple(sorted(reasons))))
        elif a[name] == b[name]:
            proved.append(name)
        else:
            different.append(name)
    missing = [f"control: {name}" for name in control.outputs if name not in b]
    missing += [f"candidate: {name}" for name in candidate.outputs if name not in a]
    proof = Proof(
        control.name,
        tuple(proved),
        tuple(different),
        tuple(unprovable),
        tuple(missing),
        differ.inputs(control, candidate),
        equations=(ours.equations, theirs.equations),
    )
    if not different:
        return proof
    found = differ.find(control, candidate, different)
    return dataclasses.replace(
        proof, divergences=found.divergences, casts=found.casts, complete=found.complete
    )


def fingerprints(program: Program) -> dict[str, str | None]:
    """What each output computes, as text that is equal for equal computations.

    To be kept where the program itself will not be there any more. None where something in it
    cannot be told by its content. Compare only what one version of JAX traced.
    """
    numbering = Numbering()
    return {
        name: None if _reasons(numbering, number) else encode.digest(number, kind).hex()
        for name, (number, kind) in numbering.program(program).items()
    }


def _reasons(numbering: Numbering, number: bytes) -> set[str]:
    """Why an output cannot be compared."""
    return {*numbering.effects, *numbering.taints.get(number, ())}
