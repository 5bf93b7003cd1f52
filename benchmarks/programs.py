"""What is timed: one training step of one candidate on one configuration, ready to be called."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maxmig import config, errors
from maxmig.config import Config, Stage

# Built-in cases: name, packaged configuration.
CASES = {
    "medium": "bench/medium",
    "tiny": "bench/tiny",
    "tiny-unscanned": "bench/tiny_unscanned",
}
PURE = "pure"
CANDIDATES = (Stage.LINEN.value, Stage.NNX.value, PURE)


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration to measure.

    Attributes:
        name: heading of its rows.
        path: YAML file or packaged name.
        overrides: `key=value` on top.
    """

    name: str
    path: str
    overrides: tuple[str, ...] = ()

    def load(self, candidate: str) -> Config:
        """The configuration with the flags of a candidate; the baseline reads Linen's."""
        stage = Stage.LINEN if candidate == PURE else Stage(candidate)
        flags = [f"{key}={str(on).lower()}" for key, on in stage.flags.as_dict().items()]
        return config.load(self.path, [*self.overrides, *flags])

    def with_overrides(self, *overrides: str) -> "Case":
        """The same with further overrides."""
        return dataclasses.replace(self, overrides=(*self.overrides, *overrides))


@dataclasses.dataclass
class Program:
    """A compiled step and what it is called with; `state` is replaced at each call.

    Attributes:
        step: (state, batch) -> (state, metrics), jitted; consumes the state.
        state: the current training state.
        batch: NumPy arrays, as the training loop hands them over.
    """

    step: Any
    state: Any
    batch: Mapping[str, np.ndarray]

    def __call__(self) -> Any:
        """Takes a step without waiting for it; returns all that it will have written."""
        self.state, metrics = self.step(self.state, self.batch)
        return self.state, metrics


def cases(names: Sequence[str], files: Sequence[str], overrides: Sequence[str]) -> list[Case]:
    """The cases asked for: configuration files, or else built-in ones by name.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise errors.ConfigError(
            f"--cases: {', '.join(unknown)} is not one of {', '.join(CASES)}; "
            "give the path of any other configuration as CONFIG"
        )
    if files:
        return [Case(_stem(path), path, tuple(overrides)) for path in files]
    return [Case(name, CASES[name], tuple(overrides)) for name in names]


def build(case: Case, candidate: str) -> Program:
    """The program of a candidate. All candidates start from the same weights."""
    from maxmig.train.runtime import Runtime

    cfg = case.load(candidate)
    runtime = Runtime(cfg)
    batch = random_batch(cfg, runtime.devices)
    if candidate != PURE:
        return Program(runtime.train, runtime.init(), batch)
    from maxmig.benchmarks import pure_jax

    pure_jax.require(cfg)
    if runtime.devices > 1:
        raise errors.ConfigError(
            f"the pure-JAX baseline runs on one device, here are {runtime.devices}; "
            "leave it out with --candidates linen,nnx"
        )
    params = dict(zip(runtime.param_paths, runtime.params(runtime.init()), strict=True))
    return Program(pure_jax.train_step(cfg), pure_jax.state(cfg, params), batch)


def random_batch(cfg: Config, devices: int) -> dict[str, np.ndarray]:
    """Random tokens, one document a row, every target counted."""
    rows = cfg.train.global_batch(devices)
    length = cfg.train.max_target_length
    drawn = np.random.default_rng(0).integers(
        0, cfg.model.vocab_size, (rows, length + 1), dtype=np.int32
    )
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    ones = np.ones((rows, length), np.int32)
    return {
        "inputs": np.ascontiguousarray(drawn[:, :-1]),
        "inputs_position": positions,
        "inputs_segmentation": ones,
        "targets": np.ascontiguousarray(drawn[:, 1:]),
        "targets_position": positions,
        "targets_segmentation": ones,
    }


def memory(compiled: Any) -> int | None:
    """Peak bytes of a compiled program: arguments, results that reuse none of them, temporaries."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return int(
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        - found.alias_size_in_bytes
        + found.temp_size_in_bytes
    )


def _stem(path: str) -> str:
    return path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
