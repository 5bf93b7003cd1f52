"""L0 and L1: both sides' programs, traced; proved alike, or evaluated in float64."""

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax

from maxmig.parity import levels, programs
from maxmig.parity.findings import words
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.programs import Program, Tracer
from maxmig.parity.rungs.request import Pair, Request
from maxmig.parity.sides import probes
from maxmig.parity.sides.inputs import PACKED, Inputs
from maxmig.parity.sides.start import Start
from maxmig.train.runtime import Runtime

if TYPE_CHECKING:
    from maxmig.parity.shadow import Shadow
    from maxmig.parity.static.results import Divergence, Proof

_SHADOWED = ("forward", "train_step")
_ROWS = 2  # of a batch are enough to tell what a program means

Programs = tuple[dict[str, Program], dict[str, Program]]


def run(request: Request, pair: Pair, start: Start, given: Inputs) -> list[Check]:
    """The checks of L0 and L1, as far as they were asked for."""
    found: list[Check] = []
    if "L0" in request.levels:
        traced = trace(request, pair)
        request.note(f"L0: proving {', '.join(traced[0])}")
        found += static(traced)
    if "L1" in request.levels:
        few = _ROWS * request.cfg.train.gradient_accumulation_steps
        # What is neither proved nor part of a train step is evaluated too.
        unproved = [check.name for check in found if not check and check.name in programs.FORWARD]
        only = tuple(dict.fromkeys((*_shadowed_programs(request), *unproved)))
        traced = trace(request, pair, rows=few, only=only)
        names = list(traced[0])
        for number, name in enumerate(names, 1):
            request.note(f"L1: {name} in float64, {number} of {len(names)}")
            found.append(semantic(name, traced, pair[0], start, given))
    return found


def trace(
    request: Request,
    pair: Pair,
    rows: int | None = None,
    only: Sequence[str] | None = None,
) -> Programs:
    """The programs of both sides, without a mesh: where an array lies does not matter here.

    Args:
        request: what was asked for.
        pair: both sides.
        rows: of a batch, if there are more; None for all.
        only: names of programs; by default those that were asked for.
    """
    if pair[0].devices > 1:
        cfg = programs.on_one_device(request.cfg, request.control)
        pair = dataclasses.replace(request, cfg=cfg, devices=jax.devices()[:1]).runtimes()
    only = levels.programs(request.only) if only is None else only
    train = pair[0].cfg.train
    whole = max(1, int(train.per_device_batch_size)) * train.gradient_accumulation_steps
    rows = None if rows is None else min(rows, whole)
    control, candidate = (Tracer(runtime, rows).all(only) for runtime in pair)
    return control, candidate


def _shadowed_programs(request: Request) -> tuple[str, ...]:
    """A train step has the loss and the gradients in it, prefill and decode the forward pass."""
    asked = levels.programs(request.only)
    if asked is None:
        return _SHADOWED
    return tuple(name for name in ("forward", "loss", "gradients", "train_step") if name in asked)


def rewritten(checks: Sequence[Check]) -> bool:
    """Whether the sides are written differently, and mean and round the same all the same."""
    proofs = [check.details for check in checks if check.level == "static"]
    shadows = [check for check in checks if check.level == "semantic"]
    other = [proof for proof in proofs if not proof]
    alike = not any(proof.casts or proof.missing or proof.inputs for proof in other)
    return bool(other) and alike and bool(shadows) and all(shadows)


def static(traced: Programs) -> list[Check]:
    """A check for each program: every output proved, or where the sides part."""
    from maxmig.parity import static as proving

    found = []
    for name, program in traced[0].items():
        began = time.monotonic()
        proof = proving.prove(program, traced[1][name])
        verdict = Verdict.PASS if proof else Verdict.INCONCLUSIVE
        if proof.missing or proof.inputs:
            verdict = Verdict.FAIL
        found.append(
            Check(
                name,
                f"the {name.replace('_', ' ')} as a program",
                level="static",
                concluded=verdict,
                told=_proved(proof),
                details=proof,
                seconds=time.monotonic() - began,
            )
        )
    return found


def semantic(name: str, traced: Programs, control: Runtime, start: Start, given: Inputs) -> Check:
    """Both sides' program evaluated in float64 on the packed batch."""
    from maxmig.parity import shadow

    began = time.monotonic()
    program, other = (side[name] for side in traced)
    # In the middle of a run: at step 0 the learning rate is 0, and fresh moments are.
    state = probes.amid(control, start.state, moments=True)
    inputs = probes.tokens(program, given.batches[PACKED], control.settings.seed)
    found = shadow.compare(program, other, state | inputs)
    return Check(
        name,
        f"the {name.replace('_', ' ')} in float64",
        level="semantic",
        concluded=found.verdict,
        told=_shadowed(found),
        details=found,
        seconds=time.monotonic() - began,
    )


def _proved(proof: "Proof") -> str:
    head = f"{len(proof.proved)} of {proof.outputs} outputs proved equal"
    if proof:
        return head
    rest = (*proof.missing, *proof.inputs)
    if rest:
        return f"{head}; {rest[0]}"
    if proof.unprovable and not proof.different:
        return f"{head}; {proof.unprovable[0][1][0]}"
    return head + _parted(proof.first)


def _shadowed(found: "Shadow") -> str:
    if found.unshadowable:
        return f"no float64 shadow: {found.unshadowable[0]}"
    if found.worst is None:
        return "nothing was compared"
    outputs = words.counted(len(found.errors), "output")
    if found and not found.worst.relative:
        return f"{outputs} in float64, exactly equal"
    apart = f"at most {found.worst.relative:.1e} apart ({found.worst.output})"
    if found or not (found.failures or found.missing):
        rest = f"; {found.untaken[0]}" if found.untaken else ""
        return f"{outputs} in float64, {apart}{rest}"
    rest = f"; {found.missing[0]} only" if found.missing else ""
    head = f"{len(found.failures)} of {len(found.errors)} outputs differ in float64, {apart}{rest}"
    return head + _parted(found.first.divergence if found.first else None)


def _parted(first: "Divergence | None") -> str:
    if first is None:
        return ""
    where = f" in {first.path}" if first.path else ""
    return f"; first difference{where}: {', '.join(first.differences) or 'other equations'}"
