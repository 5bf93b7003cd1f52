"""The optimizer, its masks and the learning-rate schedule."""

import re
from typing import Literal

from pydantic import field_validator, model_validator

from maxmig.config.groups.base import (
    Contradiction,
    Fraction,
    Group,
    NonNegative,
    Positive,
    Size,
    key,
)


class Optimizer(Group):
    """The update rule, what it leaves out, and the schedule that drives it."""

    opt_type: Literal["adamw", "adam_pax", "sgd", "muon"] = key("adamw", "The update rule.")
    adam_b1: Fraction = key(0.9, "Decay of the first moment.")
    adam_b2: Fraction = key(0.95, "Decay of the second moment.")
    adam_eps: NonNegative = key(1e-8, "Added outside the square root of the second moment.")
    adam_eps_root: NonNegative = key(0.0, "Added inside the square root of the second moment.")
    adam_weight_decay: NonNegative = key(0.1, "Decay of the weights, times the learning rate.")
    mu_dtype: Literal["", "float32", "bfloat16", "float16"] = key(
        "", "Type of the first moment; '' is weight_dtype."
    )
    adamw_mask: tuple[str, ...] = key(
        (), "Regular expressions on canonical paths: weights that match do not decay."
    )
    trainable_parameters_mask: tuple[str, ...] = key(
        (), "Regular expressions on canonical paths: only weights that match are trained."
    )
    muon_beta: Fraction = key(0.95, "Decay of muon's momentum.")
    muon_weight_decay: NonNegative = key(0.0, "Decay of the weights that muon updates.")
    muon_consistent_rms: Positive | None = key(
        None, "Scales muon's updates to one root mean square; null scales by width."
    )
    skip_step_on_spikes: bool = key(False, "Skips an update when loss or gradient norm jumps.")
    skip_step_interval: Size = key(128, "Steps that the mean and deviation of a spike look at.")
    skip_step_scaling_factor: Positive = key(6.0, "Deviations above the mean that are a spike.")
    gradient_clipping_threshold: NonNegative = key(
        1.0, "Largest global norm of the gradients; 0 does not clip."
    )

    learning_rate: NonNegative = key(3e-5, "Peak of the schedule.")
    lr_schedule_type: Literal["cosine", "wsd"] = key(
        "cosine", "Shape after the warm-up: cosine, or stable and then decay."
    )
    warmup_steps_fraction: Fraction = key(0.1, "Share of the schedule that warms up.")
    learning_rate_final_fraction: Fraction = key(0.1, "Last rate, as a share of the peak.")
    learning_rate_schedule_steps: int = key(
        -1, "Length of the schedule; -1 is steps; after it the rate is 0."
    )
    wsd_decay_steps_fraction: Fraction = key(0.1, "Share of a wsd schedule that decays.")
    wsd_decay_style: Literal["linear", "cosine"] = key("linear", "Shape of the decay of wsd.")

    @field_validator("adamw_mask", "trainable_parameters_mask")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return value

    @field_validator("learning_rate_schedule_steps")
    @classmethod
    def _schedule_steps(cls, value: int) -> int:
        if value != -1 and value < 1:
            raise ValueError(f"expected an integer >= 1, or -1 for steps, got {value}")
        return value

    @model_validator(mode="after")
    def _fractions(self) -> "Optimizer":
        total = self.warmup_steps_fraction + self.wsd_decay_steps_fraction
        if self.lr_schedule_type == "wsd" and total > 1:
            raise Contradiction(
                ("warmup_steps_fraction", "wsd_decay_steps_fraction"),
                "warmup_steps_fraction and wsd_decay_steps_fraction take more than the whole "
                f"schedule: their sum is {total:g}, at most 1 is possible",
            )
        return self
