"""From measurements to checks: what is demanded of which, and what the inputs did not reach."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from maxmig.config import Config, Stage
from maxmig.parity.findings.check import Check
from maxmig.parity.findings.measure import by_path
from maxmig.parity.findings.measurement import START, Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Coverage
from maxmig.parity.sides.observe import STEP

Found = Mapping[str, Sequence[Measurement]]
Arrays = Mapping[tuple[str, str, str], np.ndarray]

# In the order of cause and effect.
TITLES = {
    "configuration": "settings besides the three flags",
    "start": "weights, optimizer state and counters before the first step",
    "hidden": "hidden states, by depth",
    "logits": "logits",
    "loss": "loss, by component",
    "gradients": "gradient of every parameter",
    "update": "parameters and moments after one step from equal gradients",
    "masks": "which parameters decay, and which are trained",
    "metrics": "loss, learning rate and norms of each step",
    "params": "every parameter after each step",
    "moments": "optimizer state after each step",
    "counters": "step counts after each step",
    "state": "masks and counters advance, evaluation changes nothing",
}
_FACTS = ("masks", "state", "configuration", "counters")


def settings(control: Config, candidate: Config) -> list[Measurement]:
    """All keys but the three flags must have one value on both sides."""
    flags = Stage.LINEN.flags.as_dict()
    ours, theirs = control.flat(), candidate.flat()
    found = []
    for key in ours:
        if key in flags:
            continue
        differs = ours[key] != theirs[key]
        text = f"{ours[key]!r} in the control, {theirs[key]!r} in the candidate"
        found.append(
            Measurement(START, key, elements=1, differing=differs, problem=text if differs else "")
        )
    return found


def build(
    found: Found,
    policy: Policy,
    wanted: Collection[str],
    unmoved: Sequence[str],
    parameters: int,
) -> tuple[Check, ...]:
    """The checks that were asked for, also those for which nothing was measured.

    Args:
        found: measurements by check.
        policy: what must hold.
        wanted: the checks that were asked for, besides settings and start.
        unmoved: parameters that no step changed.
        parameters: how many there are.
    """
    made = []
    for name, title in TITLES.items():
        if name not in wanted and name not in ("configuration", "start"):
            continue
        if name == "moments" and name not in found:
            continue  # an optimizer without moments
        doubt = ""
        if name == "params" and len(unmoved) == parameters:
            doubt = (
                "no optimizer step moved any parameter (learning rate 0?); ask for more steps, or "
                "set learning_rate, warmup_steps_fraction or learning_rate_schedule_steps"
            )
        made.append(
            Check(
                name,
                title,
                tuple(found.get(name, ())),
                policy.limit(name),
                may_be_zero=name in _FACTS,
                doubt=doubt,
                level="settings" if name == "configuration" else "native",
            )
        )
    return tuple(made)


def unmoved(recorded: Arrays, steps: int) -> tuple[str, ...]:
    """Parameters of the control that are after all steps what they were at the start."""
    last = STEP.format(steps)
    return tuple(
        path.removeprefix("params/")
        for (check, item, path), array in recorded.items()
        if (check, item) == ("params", last)
        and array.tobytes() == recorded["start", START, path].tobytes()
    )


def coverage(found: Found, steps: int, unmoved: tuple[str, ...], parameters: int) -> Coverage:
    """What the inputs did and did not reach."""
    gradients = by_path(tuple(found.get("gradients", ())))
    zero = {
        f"{check}: {path}": None
        for check in ("logits", "loss", "metrics")
        for path, ms in by_path(tuple(found.get(check, ()))).items()
        if all(m.zero for m in ms)
    }
    skipped = []
    if not steps:
        skipped.append("optimizer steps: none were asked for (--steps 0)")
    elif "params" in found and "moments" not in found:
        skipped.append("moments: this optimizer keeps none")
    return Coverage(
        parameters=parameters,
        gradients=len(gradients),
        zero_gradients=tuple(p for p, ms in gradients.items() if all(m.zero for m in ms)),
        zero_outputs=tuple(zero),
        unmoved=unmoved,
        skipped=tuple(skipped),
    )
