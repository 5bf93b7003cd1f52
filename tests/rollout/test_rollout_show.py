"""`flags show` and `flags why` on MaxText's files; on ours, see tests/config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_files import ERAS

TEXT = "base_config: base.yml\nshared_experts: 8\npure_nnx: False\n"


@pytest.mark.parametrize("era", ERAS)
def test_show(
    run: Callable[..., Any], here: Path, maxtext: Callable[[str], Path], era: str
) -> None:
    Path("mt.yml").write_text(TEXT)
    done = run("show", "mt.yml", "--maxtext", maxtext(era))
    assert done.code == 0
    stage = {"default-false": "linen", "default-true": "bridged", "removed": "bridged"}[era]
    assert f"stage {stage}: rung " in done.out
    assert "mt.yml:3" in done.out
    assert ("impossible" in done.out) == (era == "removed")
    done = run("show", "mt.yml", "--maxtext", maxtext(era), "--json")
    assert done.json["flags"]["pure_nnx"] == {"value": False, "source": "mt.yml:3"}
    assert done.json["framework"]["era"] == era


def test_why(run: Callable[..., Any], here: Path, maxtext: Callable[[str], Path]) -> None:
    Path("mt.yml").write_text(TEXT)
    options = ("mt.yml", "--maxtext", maxtext("default-true"))
    lines = [" ".join(line.split()) for line in run("why", "pure_nnx", *options).out.splitlines()]
    assert lines[0] == "pure_nnx: false"
    assert "MaxText default (default-true) true overridden" in lines
    assert "mt.yml:3 false in force" in lines
    done = run("why", "shared_experts", *options, "--json")
    assert (done.json["value"], done.json["source"]) == (8.0, "mt.yml:2")
    done = run("why", "nothing_here", *options)
    assert (done.code, "no file of mt.yml gives 'nothing_here'" in done.err) == (2, True)


def test_maxtext_without_maxtext(run: Callable[..., Any], here: Path) -> None:
    Path("mt.yml").write_text(TEXT)
    done = run("show", "mt.yml")
    assert (done.code, "which is not installed here" in done.err) == (2, True)
    done = run("show", "mt.yml", "--era", "default-true")
    assert (done.code, "MaxText's defaults stand in for it" in done.err) == (0, True)
