"""What the loop costs: one compilation, no talk with the host but for the numbers it tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helpers
import jax
import pytest
import runs

from maxmig.config.flags import Stage
from maxmig.train import loop


class Watch(loop.Silent):
    """Notes how many programs had been compiled at each step that was told."""

    def __init__(self) -> None:
        self.compiled = 0
        self.seen: dict[int, int] = {}
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, seconds: float, **more: Any) -> None:
        self.compiled += event == "/jax/core/compile/backend_compile_duration"

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        self.seen[step] = self.compiled


@pytest.mark.parametrize("scan", ["true", "false"])
def test_nothing_is_compiled_after_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wing: Stage, scan: str
) -> None:
    runs.alone(monkeypatch)
    for steps in (6, 12):  # a fresh run and a resumed one
        watch = Watch()
        cfg = runs.config(
            tmp_path,
            f"steps={steps}",
            f"scan_layers={scan}",
            "dropout_rate=0.1",
            "log_period=1",
            "checkpoint_period=2",
            stage=wing,
        )
        done = runs.train(cfg, watch)
        assert done.runtime.train._cache_size() == 1
        # Step s is told when step s + 1 was started. The first save, at step 2, compiles the cast
        # of the step counter where the layout has another type for it.
        assert watch.seen[done.first + 3] == watch.seen[done.step] > 0


def test_nothing_is_compiled_after_the_first_step_on_eight_devices(
    tmp_path: Path, wing: Stage
) -> None:
    watch = Watch()
    cfg = runs.config(tmp_path, "steps=5", "per_device_batch_size=1", "log_period=1", stage=wing)
    done = runs.train(cfg, watch)
    assert done.runtime.devices == 8
    assert done.runtime.train._cache_size() == 1
    assert watch.seen[1] == watch.seen[4]


def test_the_counter_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a compilation is heard."""
    watch = Watch()
    jax.jit(lambda x: x * 3 + 1)(1.0)
    assert watch.compiled == 1


def test_numbers_are_fetched_only_to_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wing: Stage
) -> None:
    """JAX's transfer guards do not see transfers from a CPU: the ways to the host are watched."""
    runs.alone(monkeypatch)
    fetched: list[int] = []
    real = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(1) or real(tree))
    array = type(jax.numpy.zeros(()))
    value = array._value
    read: list[tuple[int, ...]] = []

    def spy(self: Any) -> Any:
        read.append(self.shape)
        return value.fget(self)

    monkeypatch.setattr(array, "_value", property(spy))
    cfg = runs.config(tmp_path, "steps=8", "log_period=4", "enable_checkpointing=false", stage=wing)
    done = runs.train(cfg)
    assert fetched == [1, 1]
    assert set(read) == {()}, "only scalars come to the host"
    told = len(done.values) - len(runs.TIMES)
    assert len(read) <= 2 * told + 1  # the seed's schedule, at most, beside them


def test_the_step_has_no_host_round_trip(tmp_path: Path, wing: Stage) -> None:
    runtime = helpers.runtime("tiny_llama2", "dropout_rate=0.1", stage=wing)
    batch = helpers.batch(vocab=256)
    names = helpers.primitives(runtime.train, runtime.init(), batch)
    assert len(names) > 100
    assert not [n for n in names if "callback" in n or "feed" in n or "debug" in n]
