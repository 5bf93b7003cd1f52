"""L3: what a user sees: distributions, decoded tokens, sharded runs, restored checkpoints."""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig.checkpoint.store import Store
from maxmig.parity import programs
from maxmig.parity.findings import distributions, measure
from maxmig.parity.findings.check import Check, Verdict
from maxmig.parity.findings.measurement import SIDES, Measurement
from maxmig.parity.findings.policy import RATIO, Policy
from maxmig.parity.rungs import decode
from maxmig.parity.rungs.request import Pair, Request
from maxmig.parity.rungs.truth import Truth
from maxmig.parity.sides import start as starts
from maxmig.parity.sides.inputs import LONG, PACKED, Inputs
from maxmig.parity.sides.start import Start
from maxmig.train.runtime import Runtime

# KL is quadratic in the difference of logits, and those may err twice as much as the control's.
FACTOR = 4.0

Logits = dict[str, np.ndarray]


def compare(
    request: Request, pair: Pair, start: Start, given: Inputs, policy: Policy
) -> tuple[list[Check], list[str]]:
    """The checks of L3, and what was left out, with the reason."""
    request.note("L3: distributions, decoding, sharded, restored")
    fault = request.fault
    changed = fault.state(dict(start.state)) if fault and fault.state else start.state
    states = (start.state, changed)
    logits = tuple(_logits(r, s, given) for r, s in zip(pair, states, strict=True))
    truth = Truth(pair[0].cfg, request.control, start.state, given)
    checks = [_distribution((logits[0], logits[1]), given, policy, truth)]
    checks.append(decode.check(pair, states, given, _noise(logits[0], truth, policy)))
    skipped = []
    if pair[0].devices > 1:
        checks.append(_sharded(request, pair, states, given, policy))
    else:
        skipped.append(
            "sharded against unsharded: there is one device (--simulate-devices 8 makes more)"
        )
    checks.append(_restored(pair, states, given, logits))
    return checks, skipped


def _logits(runtime: Runtime, state: Mapping[str, np.ndarray], given: Inputs) -> Logits:
    params = _params(runtime, state)
    return {
        item: np.asarray(runtime.logits(params, runtime.place(batch)))
        for item, batch in given.batches.items()
    }


def _params(runtime: Runtime, state: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    return runtime.params(runtime.leaves({p: np.array(a, copy=True) for p, a in state.items()}))


def _distribution(
    logits: tuple[Logits, Logits], given: Inputs, policy: Policy, truth: Truth
) -> Check:
    """KL, top-k and probabilities; gated by the control's own KL against float64."""
    found, over = [], []
    for item, batch in given.batches.items():
        a, b = logits[0][item], logits[1][item]
        counted = batch["targets_segmentation"]
        d = distributions.compare(item, a, b, batch["targets"], batch["inputs_position"], counted)
        if d is None:
            continue
        found.append(d)
        if not d.kl.most:
            continue
        true = truth(("logits", item, "logits")) if policy.name == RATIO else None
        if true is not None:
            own, theirs = (distributions.mean_kl(true, x, counted) for x in (a, b))
            if theirs > FACTOR * max(own, 1e-14):
                over.append(f"{item}: {theirs:.1e} from float64, the control {own:.1e}")
        elif a.tobytes() != b.tobytes() and policy.name != RATIO:
            over.append(f"{item}: not 0, though the logits should be equal bit for bit")
    if not found:
        return concluded("distribution", Verdict.INCONCLUSIVE, "no token counts in any batch")
    told = distributions.summary(found)
    if over:
        told = f"KL too large for {'; '.join(over)} ({told})"
    return concluded(
        "distribution",
        Verdict.FAIL if over else Verdict.PASS,
        told if any(d.kl.most for d in found) else f"equal for {_tokens(found)} tokens: KL 0",
        tuple(found),
    )


def _tokens(found: list[distributions.Distribution]) -> str:
    return f"{sum(d.kl.count for d in found):,}"


def _noise(logits: Logits, truth: Truth, policy: Policy) -> float:
    """The rounding noise of the control's logits, root mean square, nats."""
    item = next(iter(logits))
    array = logits[item].astype(np.float64)
    true = truth(("logits", item, "logits")) if policy.name == RATIO else None
    if true is not None:
        return float(np.sqrt(np.mean((array - true) ** 2)))
    return policy.floor(policy.coarsest, array.size) * float(np.sqrt(np.mean(array**2)))


def _sharded(
    request: Request, pair: Pair, states: tuple[Any, Any], given: Inputs, policy: Policy
) -> Check:
    """Each side on all devices against itself on one; sums are in another order, so not bitwise."""
    cfg = programs.on_one_device(pair[0].cfg, request.control)
    alone = dataclasses.replace(request, cfg=cfg, devices=jax.devices()[:1]).runtimes()
    found = []
    for side, whole, single, state in zip(SIDES, pair, alone, states, strict=True):
        sharded, unsharded = (_outputs(runtime, state, given) for runtime in (whole, single))
        for path, array in sharded.items():
            found.append(measure.compare(side, path, unsharded[path], array))
    limit = policy.rounding("gradients")
    return Check(
        "sharded",
        f"logits, loss and gradients on {pair[0].devices} devices against one",
        tuple(found),
        limit,
        level="behaviour",
    )


def _outputs(runtime: Runtime, state: Mapping[str, np.ndarray], given: Inputs) -> Logits:
    params, batch = _params(runtime, state), runtime.place(given.batches[PACKED])
    loss, gradients = runtime.gradients(params, batch)
    found: dict[str, Any] = {"logits": runtime.logits(params, batch), "loss": loss.total}
    found |= {f"gradients/{path}": g for path, g in gradients.items()}
    return {path: np.asarray(array) for path, array in found.items()}


def _restored(
    pair: Pair, states: tuple[Any, Any], given: Inputs, logits: tuple[Logits, ...]
) -> Check:
    """Each side saved in its own layout and restored: the same bits, and the same logits."""
    found: list[Measurement] = []
    for side, runtime, state, expected in zip(SIDES, pair, states, logits, strict=True):
        found += _round_trip(side, runtime, state, given, expected)
    return Check(
        "restored",
        "state and logits after saving and restoring, each side in its own layout",
        tuple(found),
        level="behaviour",
    )


def _round_trip(
    side: str, runtime: Runtime, state: Mapping[str, Any], given: Inputs, expected: Logits
) -> Iterator[Measurement]:
    stage = runtime.cfg.flags.stage
    with tempfile.TemporaryDirectory(prefix="maxmig-parity-") as folder:
        with Store(Path(folder) / "saved", asynchronous=False) as store:
            metadata = {
                "stage": stage.value,
                "param_scan_axis": runtime.cfg.stack.param_scan_axis,
            }
            store.save(0, state, skeleton=runtime.skeleton, metadata=metadata)
        restored = Store(Path(folder) / "saved").restore(None, runtime.abstract).flat
        after = starts.host(restored)
        for path, leaf in state.items():
            yield measure.compare(side, path, np.asarray(leaf), after[path])
        items = [item for item in given.batches if item != LONG][:1]
        again = _logits(
            runtime,
            after,
            dataclasses.replace(given, batches={item: given.batches[item] for item in items}),
        )
        for item in items:
            yield measure.compare(side, "logits", expected[item], again[item])


def concluded(name: str, verdict: Verdict, told: str, details: Any = None) -> Check:
    """A check of this level that has no measurements."""
    return Check(
        name,
        _TITLES[name],
        level="behaviour",
        concluded=verdict,
        told=told,
        details=details,
    )


_TITLES = {
    "distribution": "next-token distributions: KL, top-k, probabilities",
    "decode": "greedy decoding",
}
