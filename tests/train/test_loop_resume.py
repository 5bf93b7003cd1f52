"""Runs that were stopped and resumed equal runs that were not: state and metrics, bit for bit."""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import runs

from maxmig import data
from maxmig.config.flags import Stage

# Dropout on, packed text, saves in the background while training goes on, evaluations between.
RUN = ("dropout_rate=0.1", "log_period=1", "eval_interval=3", "eval_steps=1", "steps=7")
SAVING = ("checkpoint_period=2", "async_checkpointing=true")


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@dataclasses.dataclass(frozen=True)
class Whole:
    """An uninterrupted run, with its checkpoints."""

    root: Path
    state: dict[str, Any]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")

    @functools.cache
    def make(stage: Stage, *overrides: str) -> Whole:
        name = "-".join([stage.value, *overrides]).replace("/", "")
        cfg = runs.config(folder, *RUN, *SAVING, f"run_name={name}", *overrides, stage=stage)
        done = runs.train(cfg)
        return Whole(done.folder.root, runs.state(done), runs.records(done.folder.metrics))

    make.folder = folder  # type: ignore[attr-defined]
    return make


def cut(one: Whole, after: int) -> None:
    """Makes the copy of a run look as if it had been killed after a checkpoint was saved."""
    for step in (one.root / "checkpoints").iterdir():
        if int(step.name) >= after:
            shutil.rmtree(step)


def test_the_rows_are_packed(tmp_path: Path) -> None:
    with data.make(runs.config(tmp_path), global_batch=2, split="train") as loader:
        segments = [next(loader)["inputs_segmentation"] for _ in range(7)]
    assert max(rows.max() for rows in segments) >= 2 > 0 == min(rows.min() for rows in segments)


def copy(one: Whole, to: str) -> Whole:
    root = one.root.with_name(to)
    shutil.copytree(one.root, root)
    return dataclasses.replace(one, root=root)


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("scan", ["true", "false"])
def test_a_resumed_run_is_an_uninterrupted_one(
    whole: Any, wing: Stage, scan: str, accumulation: int
) -> None:
    more = (f"scan_layers={scan}", f"gradient_accumulation_steps={accumulation}")
    reference = whole(wing, *more)
    assert [r["step"] for r in reference.records] == [1, 2, 3, 3, 4, 5, 6, 6, 7]
    for after in (2, 6):
        one = copy(reference, f"cut-{wing.value}-{scan}-{accumulation}-{after}")
        cut(one, after)
        cfg = runs.config(whole.folder, *RUN, f"run_name={one.root.name}", *more, stage=wing)
        done = runs.train(cfg)
        assert (done.first, done.step) == (after, 7)
        helpers.same(runs.state(done), reference.state)
        assert runs.records(done.folder.metrics) == reference.records


def test_two_legs_are_one_run(whole: Any, wing: Stage, tmp_path: Path) -> None:
    """Also where a leg ends between two checkpoints, and saves at its end."""
    reference = whole(wing, "scan_layers=true", "gradient_accumulation_steps=1")
    for steps in (3, 4, 7):
        done = runs.train(runs.config(tmp_path, *RUN, *SAVING, f"steps={steps}", stage=wing))
    helpers.same(runs.state(done), reference.state)
    assert runs.records(done.folder.metrics) == reference.records


@pytest.mark.parametrize("lost", ["the seed", "the place in the data", "the moments"])
def test_what_a_resume_needs(whole: Any, lost: str) -> None:
    """Negative control: without any one of these the resumed run would be another one."""
    reference = whole(Stage.LINEN, "scan_layers=true", "gradient_accumulation_steps=1")
    one = copy(reference, f"without-{lost}".replace(" ", "-"))
    cut(one, 4)
    more: tuple[str, ...] = ()
    if lost == "the seed":
        more = ("init_weights_seed=1",)
    elif lost == "the place in the data":
        shutil.rmtree(one.root / "checkpoints" / "3" / "iter")
    else:
        source = one.root.with_name("moments-lost")
        shutil.copytree(one.root / "checkpoints", source)
        shutil.rmtree(one.root / "checkpoints")
        more = (f"load_parameters_path={source}", "steps=3")
    cfg = runs.config(whole.folder, *RUN, f"run_name={one.root.name}", *more)
    done = runs.train(cfg)
    other = runs.state(done)
    paths = [path for path in other if path.startswith("params/")]
    assert any(not np.array_equal(other[p], reference.state[p]) for p in paths)


def flip(folder: Path, ladder: list[Stage], *overrides: str) -> Any:
    """One run in one directory, two steps a rung."""
    for number, stage in enumerate(ladder, 1):
        cfg = runs.config(
            folder,
            "dropout_rate=0.1",
            "log_period=1",
            f"steps={2 * number}",
            *overrides,
            stage=stage,
        )
        done = runs.train(cfg)
        assert (done.first, done.step) == (2 * number - 2, 2 * number)
        assert done.runtime.proof.stage is stage
    return done


def check_flip(tmp_path: Path, ladder: list[Stage], layouts: list[str], *overrides: str) -> None:
    flipped = flip(tmp_path / "flipped", ladder, *overrides)
    (tmp_path / "straight").mkdir()
    total = f"steps={2 * len(ladder)}"
    cfg = runs.config(tmp_path / "straight", "dropout_rate=0.1", "log_period=1", *overrides, total)
    straight = runs.train(cfg)
    helpers.same(runs.state(flipped), runs.state(straight))
    assert runs.records(flipped.folder.metrics) == runs.records(straight.folder.metrics)
    told = [
        runs.stored(flipped.folder.checkpoints, 2 * number + 1) for number in range(len(ladder))
    ]
    assert [one["stage"] for one in told] == [stage.value for stage in ladder]
    assert [one["layout"] for one in told] == layouts
    for one, stage in zip(told, ladder, strict=True):
        assert one["proof"].startswith(f"{stage.value}: ")


THERE_AND_BACK = [Stage.LINEN, Stage.NNX, Stage.LINEN]


@pytest.mark.parametrize(
    ("layout", "scan", "layouts"),
    [
        ("auto", "true", ["linen", "nnx", "linen"]),
        ("auto", "false", ["linen", "nnx", "linen"]),
        ("linen", "true", ["linen"] * 3),
        ("nnx", "true", ["nnx"] * 3),
    ],
)
def test_flags_flipped_in_one_directory(
    tmp_path: Path, layout: str, scan: str, layouts: list[str]
) -> None:
    (tmp_path / "flipped").mkdir()
    more = (f"checkpoint_layout={layout}", f"scan_layers={scan}")
    check_flip(tmp_path, THERE_AND_BACK, layouts, *more)


def test_the_whole_ladder_in_one_directory(tmp_path: Path) -> None:
    (tmp_path / "flipped").mkdir()
    ladder = sorted(Stage, key=lambda stage: stage.order)
    assert len(ladder) == 5
    check_flip(tmp_path, ladder, ["linen", "linen", "linen", "nnx", "nnx"])


def test_the_other_family_flipped(tmp_path: Path) -> None:
    """gpt3 with adam_pax, whose state has other containers."""
    legs = []
    for ladder in (THERE_AND_BACK, [Stage.LINEN] * 3):
        folder = tmp_path / str(len(legs))
        folder.mkdir()
        for number, stage in enumerate(ladder, 1):
            cfg = runs.config(
                folder,
                "base_num_kv_heads=2",
                "dropout_rate=0.1",
                f"steps={2 * number}",
                name="tiny_gpt3",
                stage=stage,
            )
            done = runs.train(cfg)
        legs.append(runs.state(done))
    helpers.same(*legs)


def test_metadata_tell_the_rung_of_the_objects_not_of_the_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: flags that are not obeyed do not get into the metadata."""
    from maxmig import backend, models

    monkeypatch.setattr(
        backend, "select", lambda cfg, model: backend.at(Stage.LINEN, models.build(cfg))
    )
    done = runs.train(runs.config(tmp_path, "steps=1", stage=Stage.NNX))
    assert runs.stored(done.folder.checkpoints)["stage"] == "linen"
