"""Where two sides differ: the first equation, each layer on its own, and a script that shows it.

The layers of the candidate are then fed with what the control computed up to there, so that each
answers for itself alone: a layer that only passes a difference on is told from one that makes it.
"""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from maxmig import errors
from maxmig.config import Stage
from maxmig.parity import shadow, static
from maxmig.parity.faults.specimen import Side
from maxmig.parity.findings.check import Verdict
from maxmig.parity.programs import Program
from maxmig.parity.shadow import Layer, Shadow
from maxmig.parity.static import Divergence, Proof

PROGRAMS = ("forward", "gradients")
SCRIPT, INPUTS, SETTINGS = "repro.py", "inputs.npz", "{}.yml"


@dataclasses.dataclass(frozen=True)
class Localization:
    """Where two sides differ.

    Attributes:
        program: the first program in which they do, or the last that was looked at.
        proof: of that program; all outputs are proved where nothing differs.
        shadow: of that program in float64; None where it was proved already.
        layers: each layer of the candidate alone, fed with the control's values.
        script: what shows it again; None where nothing was written.
    """

    program: str
    proof: Proof
    shadow: Shadow | None = None
    layers: tuple[Layer, ...] = ()
    script: Path | None = None

    @property
    def verdict(self) -> Verdict:
        """PASS where all is proved or alike in float64, FAIL where a difference was found."""
        if self.proof:
            return Verdict.PASS
        if self.proof.missing or self.proof.inputs:
            return Verdict.FAIL
        assert self.shadow is not None
        if self.shadow.verdict is Verdict.PASS and self.proof.casts:
            return Verdict.INCONCLUSIVE
        return self.shadow.verdict

    @property
    def first(self) -> Divergence | None:
        """The first equation that differs: in float64, or else in the programs themselves."""
        if self.shadow is not None and self.shadow.first is not None:
            return self.shadow.first.divergence
        return self.proof.first

    @property
    def guilty(self) -> tuple[Layer, ...]:
        """Layers that make a difference of their own."""
        return tuple(layer for layer in self.layers if not layer)


def localize(
    control: Side,
    candidate: Side,
    given: Mapping[str, Any] | None = None,
    *,
    folder: Path | None = None,
) -> Localization:
    """Looks for the first difference: in the forward pass, then in loss and gradients.

    Args:
        control, candidate: the sides.
        given: weights and a batch by the names of the programs' inputs; random ones by default.
        folder: where to write a script that shows the difference again, with all it needs.

    Raises:
        PreflightError: the folder has a script already.
    """
    if folder is not None and (folder / SCRIPT).exists():
        raise errors.PreflightError(
            f"{folder / SCRIPT} exists already; choose another folder, or remove it"
        )
    given = control.inputs() if given is None else given
    found: Localization | None = None
    for name in PROGRAMS:
        sides = tuple(side.programs([name])[name] for side in (control, candidate))
        found = between(sides[0], sides[1], given)
        if found.verdict is not Verdict.PASS:
            break
    assert found is not None
    if folder is not None and found.verdict is not Verdict.PASS:
        script = _write(folder, found, control, candidate, given)
        found = dataclasses.replace(found, script=script)
    return found


def between(control: Program, candidate: Program, given: Mapping[str, Any]) -> Localization:
    """Where two programs differ, for these inputs."""
    proof = static.prove(control, candidate)
    if proof or proof.missing:
        return Localization(control.name, proof)
    result = shadow.compare(control, candidate, given)
    differ = result.verdict is Verdict.FAIL
    layers = shadow.isolate(control, candidate, given) if differ else ()
    return Localization(control.name, proof, result, layers)


def _write(
    folder: Path, found: Localization, control: Side, candidate: Side, given: Mapping[str, Any]
) -> Path:
    """Everything that shows the difference again: a script, both configurations, the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, side in (("control", control), ("candidate", candidate)):
        settings = side.bug.settings if side.bug else {}
        cfg = side.cfg.replace(**settings)
        (folder / SETTINGS.format(name)).write_text(cfg.dump(), "utf-8")
    needed = set(control.programs([found.program])[found.program].inputs)
    np.savez(folder / INPUTS, **{k: v for k, v in given.items() if k in needed})
    script = folder / SCRIPT
    told = "\n".join(_wrapped(str(found.first or found.proof.summary)))
    script.write_text(
        _SCRIPT.format(
            told=told.replace("\\", "/").replace('"""', "'''"),
            command=shlex.join(["python", script.name]),
            program=found.program,
            sides=", ".join(
                _side(n, s) for n, s in (("control", control), ("candidate", candidate))
            ),
            verdict=found.verdict.value,
        ),
        "utf-8",
    )
    return script


def _side(name: str, side: Side) -> str:
    bug = repr(side.bug.name) if side.bug else None
    stage = Stage(side.stage).value
    return f"side({name!r}, {stage!r}, {bug}, {side.rows}, {side.length})"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 96)


_SCRIPT = '''"""Two sides that differ, and where:

{told}

Run it: {command}
It exits with 1 as long as they differ, and with 0 when they do not.
"""

import pathlib
import sys

import numpy as np

from maxmig import config
from maxmig.parity.faults import bugs, specimen
from maxmig.parity.rungs import localize
from maxmig.config import Stage

HERE = pathlib.Path(__file__).parent


def side(name, stage, bug, rows, length):
    cfg = config.load(str(HERE / f"{{name}}.yml"), [])
    return specimen.Side(cfg, Stage(stage), bug and bugs.named(bug), rows, length)


given = dict(np.load(HERE / "inputs.npz"))
control, candidate = {sides}
found = localize.of({program!r}, control, candidate, given)
print(found.verdict.value)
print(found.first or found.proof.summary)
for layer in found.layers:
    print(f"{{layer.relative:.2e}}  {{layer.path}}")
sys.exit(0 if found.verdict.value == "PASS" else 1)
'''


def of(name: str, control: Side, candidate: Side, given: Mapping[str, Any]) -> Localization:
    """The same for one program alone."""
    ours, theirs = (side.programs([name])[name] for side in (control, candidate))
    return between(ours, theirs, given)
