"""The optimizer that a configuration asks for."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from maxmig import trees
from maxmig.config import Config
from maxmig.core.part import Param
from maxmig.optim import schedule
from maxmig.optim.adam_pax import adam_pax
from maxmig.optim.spikes import skip_on_spikes

Mask = Callable[[Any], Any]

learning_rate = schedule.build


def build(cfg: Config, spec: Mapping[str, Param]) -> optax.GradientTransformation:
    """The optimizer, for nested dicts of parameters with canonical names.

    Args:
        cfg: the configuration.
        spec: the parameters by canonical path; Muon reads from it which axes form a matrix.
    """
    o = cfg.optimizer
    tx = _BASE[o.opt_type](cfg, spec)
    if o.skip_step_on_spikes:
        tx = skip_on_spikes(tx, o.skip_step_interval, o.skip_step_scaling_factor)
    if o.trainable_parameters_mask:
        labels = matching(o.trainable_parameters_mask, "trainable", "frozen")
        tx = optax.multi_transform({"trainable": tx, "frozen": optax.set_to_zero()}, labels)
    return tx


def matching(patterns: Sequence[str], yes: Any, no: Any) -> Mask:
    """A function from a nested dict to the same tree of `yes` where a pattern is in the path."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def label(params: Any) -> Any:
        found = {p: any(c.search(p) for c in compiled) for p in trees.flatten(params)}
        return trees.unflatten({p: yes if hit else no for p, hit in found.items()})

    return label


def _adamw(cfg: Config, spec: Mapping[str, Param]) -> optax.GradientTransformation:
    o = cfg.optimizer
    return optax.adamw(
        learning_rate(cfg),
        b1=o.adam_b1,
        b2=o.adam_b2,
        eps=o.adam_eps,
        eps_root=o.adam_eps_root,
        weight_decay=o.adam_weight_decay,
        mu_dtype=_mu_dtype(cfg),
        mask=_decay_mask(cfg),
    )


def _adam_pax(cfg: Config, spec: Mapping[str, Param]) -> optax.GradientTransformation:
    o = cfg.optimizer
    return adam_pax(
        learning_rate(cfg),
        o.adam_b1,
        o.adam_b2,
        o.adam_eps,
        o.adam_eps_root,
        o.adam_weight_decay,
        mu_dtype=_mu_dtype(cfg),
        mask=_decay_mask(cfg),
    )


def _sgd(cfg: Config, spec: Mapping[str, Param]) -> optax.GradientTransformation:
    return optax.sgd(learning_rate(cfg))


def _muon(cfg: Config, spec: Mapping[str, Param]) -> optax.GradientTransformation:
    o = cfg.optimizer
    return optax.contrib.muon(
        learning_rate(cfg),
        beta=o.muon_beta,
        eps=o.adam_eps,
        weight_decay=o.muon_weight_decay,
        mu_dtype=_mu_dtype(cfg),
        adam_b1=o.adam_b1,
        adam_b2=o.adam_b2,
        adam_eps_root=o.adam_eps_root,
        adam_weight_decay=o.adam_weight_decay,
        muon_weight_dimension_numbers=matrices(spec),
        consistent_rms=o.muon_consistent_rms,
    )


_BASE: dict[str, Callable[[Config, Mapping[str, Param]], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adam_pax": _adam_pax,
    "sgd": _sgd,
    "muon": _muon,
}


def matrices(spec: Mapping[str, Param]) -> dict[str, Any]:
    """For each parameter, the axes that Muon takes as rows and columns; None leaves it to Adam.

    The output head is no matrix for Muon, as in its authors' recipe (Jordan et al. 2024).
    """
    return trees.unflatten({path: _matrix(path, param) for path, param in spec.items()})


def _matrix(path: str, param: Param) -> Any:
    if param.fan_in is None or "logits_dense" in path:
        return None
    batch = {*param.batch, *((param.axis,) if param.layers else ())}
    rest = set(range(len(param.shape))) - set(param.fan_in) - batch
    return optax.contrib.MuonDimensionNumbers(tuple(param.fan_in), tuple(sorted(rest)))


def _decay_mask(cfg: Config) -> Mask | None:
    patterns = cfg.optimizer.adamw_mask
    return matching(patterns, False, True) if patterns else None


def _mu_dtype(cfg: Config) -> Any:
    return jnp.dtype(cfg.optimizer.mu_dtype or cfg.numerics.weight_dtype)
