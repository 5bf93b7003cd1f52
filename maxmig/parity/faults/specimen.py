"""The programs of a rung, with or without a bug, and numbers to feed them."""

import dataclasses
import math
import zlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from maxmig import config
from maxmig.config import Config, Stage
from maxmig.core.part import Param
from maxmig.parity import programs
from maxmig.parity.faults.bugs import Bug
from maxmig.parity.faults.fault import Broken
from maxmig.parity.programs import Program, Tracer
from maxmig.parity.sides import inputs
from maxmig.train.runtime import Runtime

Flat = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        cfg: its configuration; the flags are replaced by the rung's.
        stage: the rung.
        bug: what is wrong with it.
        rows, length: B and L of the batch.
    """

    cfg: Config
    stage: Stage
    bug: Bug | None = None
    rows: int = 2
    length: int = 32

    def runtime(self) -> Runtime:
        """The side's runtime, on one device."""
        cfg = self.cfg.replace(**self.bug.settings) if self.bug else self.cfg
        runtime = Runtime(programs.on_one_device(cfg, self.stage), jax.devices()[:1])
        if self.bug and self.bug.params:
            runtime.backend = Broken(runtime.backend, self.bug.params)
        return runtime

    def programs(self, only: Iterable[str]) -> dict[str, Program]:
        """The side's programs, traced with the bug in place."""
        tracer = Tracer(self.runtime(), self.rows, self.length)
        if self.bug is None:
            return tracer.all(only)
        with self.bug.active():
            return tracer.all(only)

    def inputs(self, seed: int = 0) -> Flat:
        """Random weights of the usual sizes, none of them constant, and a packed, padded batch."""
        runtime = self.runtime()
        given: Flat = {
            path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in runtime.abstract.items()
        }
        for path, param in runtime.backend.spec.items():
            rng = np.random.default_rng([seed, zlib.crc32(path.encode())])
            noise = rng.standard_normal(param.shape)
            given[f"params/{path}"] = _weights(param, noise).astype(param.dtype)
        batch = inputs.packed(self.rows, self.length, self.cfg.model.vocab_size, seed=seed)
        return {**given, **{f"batch/{key}": value for key, value in batch.items()}}


def _weights(param: Param, noise: np.ndarray) -> np.ndarray:
    """Kernels by their fan-in; scales and biases near what they start with."""
    if param.fan_in is not None:
        return noise / math.sqrt(math.prod(param.shape[i] for i in param.fan_in))
    return noise if len(param.shape) - bool(param.layers) > 1 else 1 + 0.1 * noise


def small(family: str = "llama2", **changes: Any) -> Config:
    """A small model of three layers apart from one another, in which every bug has its place."""
    settings: dict[str, Any] = {
        "base_num_decoder_layers": 3,
        "scan_layers": False,
        "remat_policy": "none",
        "normalization_layer_epsilon": 1e-6,
    }
    return config.load(f"tiny_{family}", []).replace(**{**settings, **changes})


def run(program: Program, given: Flat) -> dict[str, np.ndarray]:
    """The outputs of a program at its own precision, compiled without optimisations of speed."""
    function = jax.jit(jax.extend.core.jaxpr_as_fun(program.jaxpr))
    arrays = [
        jax.numpy.asarray(given[name], aval.dtype)
        for name, aval in zip(program.inputs, program.jaxpr.in_avals, strict=True)
    ]
    compiled = function.lower(*arrays).compile({"xla_backend_optimization_level": "0"})
    return dict(zip(program.outputs, map(np.asarray, compiled(*arrays)), strict=True))
