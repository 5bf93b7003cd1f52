"""The run, its three flags, the training loop and generation."""

from pathlib import PurePath
from typing import Literal

from pydantic import field_validator, model_validator

from maxmig.config import flags
from maxmig.config.groups.base import (
    Contradiction,
    Count,
    Group,
    NonNegative,
    Positive,
    Seed,
    Size,
    key,
)
from maxmig.errors import ConfigError


class Run(Group):
    """Where a run writes, and under what name."""

    run_name: str = key("", "Name of the run and of its folder; '' is made from the time.")
    base_output_directory: str = key("maxmig_output", "Folder that holds the runs.")
    model_name: str = key("default", "Reads models/<model_name>.yml above the base.")
    metrics_file: str = key("", "JSON lines of metrics; '' is metrics.jsonl in the run's folder.")
    enable_tensorboard: bool = key(True, "Writes TensorBoard events in the run's folder.")
    log_period: Size = key(10, "Steps between two lines of metrics.")

    @field_validator("run_name")
    @classmethod
    def _inside(cls, value: str) -> str:
        parts = PurePath(value).parts
        if ".." in parts or PurePath(value).is_absolute():
            raise ValueError(
                f"run_name: expected a name inside base_output_directory, got {value!r}"
            )
        return value


class Flags(Group):
    """The three flags of the migration; together they select the stage."""

    enable_nnx: bool = key(False, "The model is an NNX module.")
    pure_nnx: bool = key(False, "State and step are NNX's.")
    pure_nnx_decoder: bool = key(False, "The decoder inside the NNX model is NNX's.")

    @property
    def stage(self) -> flags.Stage:
        """The rung of the ladder that the three flags select."""
        return flags.Stage.from_flags(**self.model_dump())

    @model_validator(mode="after")
    def _runnable(self) -> "Flags":
        try:
            flags.Stage.from_flags(**self.model_dump())
        except ValueError as error:
            raise Contradiction(flags.KEYS, str(error)) from None
        return self


class Train(Group):
    """Steps, batches, evaluation and seeds."""

    steps: Size = key(
        150_001, "Steps of the whole run, counted from 0 and across resumes.", le=2**31 - 1
    )
    per_device_batch_size: Positive = key(
        12.0, "Sequences a device and an accumulation step; below 1 it spans devices."
    )
    global_batch_size_to_train_on: Size | None = key(
        None, "Checked against devices x per_device_batch_size x accumulation; null is not."
    )
    max_target_length: Size = key(2048, "Tokens of a sequence.")
    gradient_accumulation_steps: Size = key(1, "Micro-batches whose gradients make one update.")
    z_loss_multiplier: NonNegative = key(0.0, "Weight of the squared log-normaliser in the loss.")
    eval_interval: int = key(-1, "Steps between two evaluations; -1 is never.")
    eval_steps: int = key(10, "Batches of one evaluation.")
    eval_per_device_batch_size: float = key(
        0.0, "Sequences a device in an evaluation; 0 is per_device_batch_size.", ge=0
    )
    init_weights_seed: Seed = key(0, "Seed of the weights and of every other random stream.")
    data_shuffle_seed: Seed = key(0, "Seed of the order of the data.")

    @field_validator("eval_interval", "eval_steps")
    @classmethod
    def _positive_or_off(cls, value: int) -> int:
        if value != -1 and value < 1:
            raise ValueError(f"expected an integer >= 1, or -1, got {value}")
        return value

    @model_validator(mode="after")
    def _evaluation(self) -> "Train":
        if self.eval_interval > 0 and self.eval_steps == -1:
            raise Contradiction(
                ("eval_interval", "eval_steps"),
                "eval_interval asks for evaluations, and eval_steps -1 does not say how long: "
                "give eval_steps a positive number",
            )
        return self

    def micro_batch(self, num_devices: int) -> int:
        """Sequences of one accumulation step over all devices."""
        return _whole(self.per_device_batch_size, num_devices, "per_device_batch_size")

    def global_batch(self, num_devices: int) -> int:
        """Sequences of one update: devices x per_device_batch_size x accumulation steps."""
        batch = self.micro_batch(num_devices) * self.gradient_accumulation_steps
        told = self.global_batch_size_to_train_on
        if told is not None and told != batch:
            raise ConfigError(
                f"global_batch_size_to_train_on is {told}, but {num_devices} device(s) x "
                f"per_device_batch_size {self.per_device_batch_size:g} x "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} makes {batch}. "
                "Change one of them, or leave global_batch_size_to_train_on out"
            )
        return batch

    def eval_batch(self, num_devices: int) -> int:
        """Sequences of one evaluation batch over all devices."""
        if not self.eval_per_device_batch_size:
            return self.micro_batch(num_devices)
        return _whole(self.eval_per_device_batch_size, num_devices, "eval_per_device_batch_size")


class Generate(Group):
    """How text is continued."""

    prompt: str = key("I love to", "Text that generation continues.")
    max_prefill_predict_length: Size = key(64, "Tokens that the prompt may have.")
    decode_sampling_strategy: Literal["greedy", "weighted", "nucleus", "topk", "composite"] = key(
        "greedy", "How the next token is chosen."
    )
    decode_sampling_top_k: Count = key(0, "Tokens that topk and composite keep.")
    decode_sampling_nucleus_p: float = key(
        -1.0, "Share of probability that nucleus and composite keep; -1 is unset.", le=1
    )
    decode_sampling_temperature: Positive = key(1.0, "Divides the logits before sampling.")

    @model_validator(mode="after")
    def _parameters(self) -> "Generate":
        strategy = self.decode_sampling_strategy
        if strategy in ("topk", "composite") and self.decode_sampling_top_k < 1:
            raise Contradiction(
                ("decode_sampling_strategy", "decode_sampling_top_k"),
                f"decode_sampling_strategy {strategy} needs decode_sampling_top_k >= 1",
            )
        if strategy in ("nucleus", "composite") and self.decode_sampling_nucleus_p <= 0:
            raise Contradiction(
                ("decode_sampling_strategy", "decode_sampling_nucleus_p"),
                f"decode_sampling_strategy {strategy} needs decode_sampling_nucleus_p in (0, 1]",
            )
        return self


def _whole(per_device: float, num_devices: int, name: str) -> int:
    batch = per_device * num_devices
    if batch < 1 or batch != int(batch):
        raise ConfigError(
            f"{name}: {per_device:g} on {num_devices} device(s) makes {batch:g} sequences; "
            "expected a whole number, at least 1"
        )
    return int(batch)
