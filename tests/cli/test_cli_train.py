"""`maxmig train`: what it prints, where, and what it writes."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
import runs

from maxmig.cli import console
from maxmig.config.flags import Stage
from maxmig.train import folder, metrics

TINY = str(helpers.ROOT / "configs" / "tiny_llama2.yml")
KEYS = {
    "step", "loss", "lm_loss", "z_loss", "total_weights", "learning_rate", "raw_grad_norm",
    "grad_norm", "param_norm", "step_time", "tokens_per_second",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.alone(monkeypatch)


@pytest.fixture
def train(run: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def call(*words: str, stage: Stage = Stage.LINEN) -> Any:
        options = [word for word in words if word.startswith("-")]
        overrides = [word for word in words if not word.startswith("-")]
        return run("train", TINY, *runs.arguments(tmp_path, *overrides, stage=stage), *options)

    return call


def parsed(path: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_results_and_progress(train: Any, tmp_path: Path, wing: Stage) -> None:
    done = train("steps=7", "log_period=2", "eval_interval=3", "eval_steps=1", stage=wing)
    assert done.code == 0
    root = tmp_path / "out" / "run"
    lines = done.out.splitlines()
    assert lines[0].startswith("trained steps 0 to 7: loss ") and lines[1] == f"run in {root}"
    words = [line.split()[0] for line in done.err.splitlines()]
    assert words[:4] == ["run", "rung", "data", "start"]
    assert f"rung     {wing.value}: {wing.value}.Decoder" in done.err
    assert done.err.count("eval     step 3/7") == done.err.count("eval     step 6/7") == 1
    last = next(line for line in done.err.splitlines() if line.startswith("step 7/7"))
    for unit in ("loss ", "lr ", " tokens/s", " ms/step", "ETA 0:00"):
        assert unit in last
    told = parsed(root / "metrics.jsonl")
    assert [r["step"] for r in told] == [2, 3, 4, 6, 6, 7]
    for record in told:
        wanted = KEYS if "loss" in record else {"step", "eval_loss", "eval_tokens", "eval_batches"}
        assert set(record) == wanted
    assert all(r["step_time"] > 0 and r["tokens_per_second"] > 0 for r in told if "loss" in r)
    assert metrics.read(root / "metrics.jsonl") == told


def test_quiet_and_json(train: Any, tmp_path: Path) -> None:
    quiet = train("steps=2", "--quiet")
    assert quiet.code == 0 and quiet.err == ""
    assert quiet.out.startswith("trained steps 0 to 2")
    done = train("steps=4", "--json")
    assert done.code == 0
    assert set(done.json) == {"run", "stage", "first_step", "steps", "metrics", "checkpoints"}
    assert (done.json["first_step"], done.json["steps"]) == (2, 4)
    assert done.json["stage"] == "linen" and "loss" in done.json["metrics"]
    assert "start    step 2 of" in done.err


def test_nothing_left_to_do(train: Any, tmp_path: Path) -> None:
    assert train("steps=2", "log_period=1").code == 0
    root = tmp_path / "out" / "run"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    done = train("steps=2")
    assert done.code == 0
    assert done.out.startswith("nothing to do: ") and "has had its 2 steps" in done.out
    assert "give a larger number of steps to go on" in done.err
    fewer = train("steps=1", "--json")
    assert fewer.code == 0
    assert (fewer.json["first_step"], fewer.json["steps"], fewer.json["metrics"]) == (2, 2, {})
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_a_run_without_a_name_gets_one(train: Any, tmp_path: Path) -> None:
    done = train("steps=1", "run_name=", "--json")
    assert done.code == 0
    (root,) = (tmp_path / "out").iterdir()
    assert root.name.startswith("run-2") and done.json["run"] == str(root)


def test_not_a_number_is_valid_json(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = train("steps=3", "log_period=1", "learning_rate=1e38", "gradient_clipping_threshold=0",
                 "warmup_steps_fraction=0", "enable_tensorboard=true", "--json")  # fmt: skip
    assert done.code == 0
    values = [record["loss"] for record in parsed(tmp_path / "out" / "run" / "metrics.jsonl")]
    assert {"nan", "inf"} & {value for value in values if isinstance(value, str)}
    assert done.json["metrics"]["loss"] in ("nan", "inf")


def events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """(step, tag, value) of the scalars in TensorBoard's files."""
    from tensorboardX.proto import event_pb2

    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            (size,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            at += 12 + size + 4
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard(train: Any, tmp_path: Path) -> None:
    more = ("log_period=1", "eval_interval=2", "eval_steps=1", "enable_tensorboard=true")
    for steps in (2, 4):
        assert train(f"steps={steps}", *more).code == 0
    root = tmp_path / "out" / "run"
    found = {(step, tag): value for step, tag, value in events(root / "tensorboard")}
    told = parsed(root / "metrics.jsonl")
    assert len(found) == sum(len(record) - 1 for record in told)
    for record in told:
        group = "learning" if "loss" in record else "evaluation"
        for name, value in record.items():
            if name != "step":
                assert found[record["step"], f"{group}/{name}"] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("period", "steps"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (10, [5])])
def test_log_period(train: Any, tmp_path: Path, period: int, steps: list[int]) -> None:
    assert train("steps=5", f"log_period={period}").code == 0
    told = parsed(tmp_path / "out" / "run" / "metrics.jsonl")
    assert [record["step"] for record in told] == steps


def test_the_live_line() -> None:
    values = {"loss": 1.23456, "learning_rate": 3e-4}
    assert metrics.line(5, 100, values) == "step 5/100  loss 1.2346  lr 3.00e-04"
    values |= {"tokens_per_second": 12345.6, "step_time": 0.25}
    assert metrics.line(60, 100, values) == (
        "step 60/100  loss 1.2346  lr 3.00e-04  12,346 tokens/s  250.0 ms/step  ETA 0:10"
    )
    assert metrics.line(0, 40_000, values).endswith("ETA 2:46:40")
    assert "loss nan" in metrics.line(1, 2, values | {"loss": float("nan")})


class TestMetricsFile:
    @pytest.fixture
    def place(self, tmp_path: Path) -> folder.Folder:
        return folder.Folder(tmp_path, tmp_path / "metrics.jsonl")

    def write(self, place: folder.Folder, start: int, *steps: int) -> None:
        writer = metrics.Writer(place, start=start, tensorboard=False)
        for step in steps:
            writer.write(step, {"loss": step / 2})
        writer.close()

    def test_what_lies_beyond_the_start_is_written_again(self, place: folder.Folder) -> None:
        self.write(place, 0, 1, 2, 3, 4)
        self.write(place, 2, 3)
        assert parsed(place.metrics) == [
            {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1}, {"step": 3, "loss": 1.5}
        ]  # fmt: skip

    @pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 2, "loss": 1}', "\x00\x00"])
    def test_a_line_that_was_cut_off(self, place: folder.Folder, tail: str) -> None:
        self.write(place, 0, 1)
        with place.metrics.open("a") as file:
            file.write(tail)
        self.write(place, 2, 3)
        steps = [record["step"] for record in parsed(place.metrics)]
        assert steps == ([1, 2, 3] if tail.endswith("}") else [1, 3])

    def test_a_new_run_leaves_the_old_records(self, place: folder.Folder) -> None:
        for _ in range(3):
            self.write(place, 0, 1, 2)
        names = sorted(path.name for path in place.root.iterdir())
        assert names == ["metrics.jsonl", "metrics.jsonl.1", "metrics.jsonl.2"]
        assert all(len(parsed(place.root / name)) == 2 for name in names)


def test_the_resume_command(monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from maxmig.cli import parser
    from maxmig.cli import train as verb

    argv = ["train", "my configs/a.yml", "prompt=two words", "run_name=x", "steps=3", "--quiet"]
    _, args = parser.parse([*argv, "--simulate-devices", "4"])
    command = verb.resume_command(args, "x")
    _, again = parser.parse(shlex.split(command)[1:])
    assert again.config == args.config and again.simulate_devices == 4
    assert set(again.overrides) == set(args.overrides)


def test_the_console_is_left_as_it_was(train: Any) -> None:
    train("steps=1", "--quiet", "--json")
    assert console.settings() == console.Settings()
