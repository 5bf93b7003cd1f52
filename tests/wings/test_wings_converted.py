"""Checkpoints of MaxText that were converted give its logits, on both wings."""

from pathlib import Path

import helpers
import numpy as np
import pytest

from maxmig.checkpoint.store import Store
from maxmig.config.flags import Stage
from maxmig.converters import checkpoint, convert

LOGITS = 2e-5  # as for checkpoints that were not converted
# (fixture, layout of the result, whether its layers are stacked)
CASES = [
    ("llama2_linen_scan", "nnx", False),
    ("llama2_pre3929nnx_noscan", "linen", True),
    ("gpt3_nnx_noscan", "linen", True),
    ("gpt3_linen_scan", "nnx", False),
    ("mixtral_linen_scan", "nnx", True),
    ("mixtral_linen_scan", "nnx", False),
    ("mixtral_linen_scan", "linen", False),
]


def distance(
    name: str, result: Path, scan: bool, stage: Stage, changed: str | None = None
) -> float:
    """The largest difference of a logit from MaxText's; one array may be reversed on its way."""
    options = f"scan_layers={str(scan).lower()}"
    rt = helpers.runtime(helpers.MAXTEXT / name / "config.yml", options, stage=stage)
    restored = Store(result).restore(None, rt.abstract).flat
    params = {p.removeprefix("params/"): v for p, v in restored.items() if p.startswith("params/")}
    if changed:
        params[changed] = np.asarray(params[changed])[::-1]
    with np.load(helpers.maxtext_reference(name)) as wanted:
        one = {k[2:]: wanted[k] for k in wanted if k.startswith("b_") and wanted[k].ndim == 2}
        got = rt.logits(helpers.only(rt, params), one)
        return float(np.abs(got - wanted["b_logits"]).max())


@pytest.mark.parametrize(("name", "to", "scan"), CASES)
def test_a_converted_checkpoint_gives_maxtexts_logits(
    name: str, to: str, scan: bool, wing: Stage, tmp_path: Path
) -> None:
    source = checkpoint.read(helpers.MAXTEXT / name / "checkpoint")
    convert.run(convert.plan(source, to, scan=scan), tmp_path / "result")
    assert distance(name, tmp_path / "result", scan, wing) <= LOGITS


def test_experts_in_another_order_are_seen(tmp_path: Path) -> None:
    """Negative control."""
    name, kernel = "mixtral_linen_scan", "decoder/layers/MoeBlock_0/wo"
    source = checkpoint.read(helpers.MAXTEXT / name / "checkpoint")
    convert.run(convert.plan(source, "nnx"), tmp_path / "result")
    assert distance(name, tmp_path / "result", True, Stage.NNX, kernel) > 1e-2
