"""What can go wrong with a setting of the flags, why, and the safe way.

The rules about MaxText are those of its own checks where it has them (it would stop with an error),
and of its known silences where it has none.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from maxmig.config import flags, scalars
from maxmig.config.flags import Stage
from maxmig.rollout.document import Item, items
from maxmig.rollout.effective import Effective
from maxmig.rollout.era import Era

_OVERRIDES = ("student_overrides", "teacher_overrides")
_GRPO = ("num_generations", "grpo_beta", "inference_devices_per_replica")


class Severity(enum.Enum):
    """How much a danger weighs: a warning; a refusal that can be overridden; one that cannot."""

    WARNING = "warning"
    BLOCKED = "blocked"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class Danger:
    """One danger: where it comes from, what happens, and what to do instead."""

    severity: Severity
    place: str
    text: str
    safe: str

    def document(self) -> dict[str, Any]:
        """The danger as plain types."""
        return vars(self) | {"severity": self.severity.value}

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Danger":
        """The danger from plain types."""
        return cls(**{**found, "severity": Severity(found["severity"])})


def find(config: Effective, target: Stage, control: Stage | None) -> list[Danger]:
    """The dangers of running a configuration at `target`, coming from `control`."""
    if config.framework.name == "maxmig":
        return list(_maxmig(config, target))
    found = list(_eras(config, target))
    if not any(danger.severity is Severity.IMPOSSIBLE for danger in found):
        found += _combinations(config, target)
        found += _silences(config, target, control)
        found += _stronger(config, target)
    return found


def _maxmig(config: Effective, target: Stage) -> Iterator[Danger]:
    from maxmig import config as configuration
    from maxmig.errors import MaxmigError

    try:
        configuration.load(config.path, overrides(target))
    except MaxmigError as error:
        yield Danger(
            Severity.IMPOSSIBLE,
            config.name,
            f"the configuration is not valid at the rung {target.value}: {error}",
            "correct the configuration first",
        )


def overrides(target: Stage) -> list[str]:
    """The flags of a rung as `key=value`."""
    return [f"{key}={scalars.plain(value)}" for key, value in target.flags.as_dict().items()]


def _eras(config: Effective, target: Stage) -> Iterator[Danger]:
    framework = config.framework
    named = [item for key in flags.KEYS if (item := config.doc.get(key))]
    if framework.era is Era.REMOVED:
        if target is not Stage.NNX:
            yield Danger(
                Severity.IMPOSSIBLE,
                config.name,
                f"{framework.title} has no Linen and no flags: it cannot run {target.value}",
                "stay with a MaxText before 0.2.5 for that",
            )
        for item in named:
            yield Danger(
                Severity.IMPOSSIBLE,
                f"{config.name}:{item.line}",
                f"{framework.title} has no key {item.key}: a file that names it does not load",
                f"remove it: maxmig flags graduate {config.name}",
            )
        return
    for key, value in target.flags.as_dict().items():
        if value and key not in framework.defaults:
            yield Danger(
                Severity.IMPOSSIBLE,
                config.name,
                f"{framework.title} has no key {key} yet: it cannot run {target.value}",
                "update MaxText first",
            )
    if framework.era is Era.DEFAULT_TRUE and target is not Stage.NNX:
        yield Danger(
            Severity.WARNING,
            config.name,
            f"{framework.title} calls every false flag deprecated; the next release removes them",
            "use this rung to climb, not to stay",
        )


def _combinations(config: Effective, target: Stage) -> Iterator[Danger]:
    """The settings at which MaxText stops, or should."""
    native = target in (Stage.HYBRID, Stage.NNX)
    if _true(config, "enable_diloco") and not native:
        yield _blocked(
            config,
            "enable_diloco",
            "needs pure_nnx: MaxText has no DiLoCo for Linen",
            "stay at hybrid or nnx, or set enable_diloco: false",
        )
    if target is Stage.HYBRID and _true(config, "use_qwix_quantization"):
        quantised = config.other("quantization") not in (None, "", "none")
        if quantised and not _true(config, "use_batch_split_schedule"):
            yield _blocked(
                config,
                "use_qwix_quantization",
                "needs pure_nnx_decoder under pure_nnx: Qwix cannot see into the bridged Linen "
                "decoder, so quantization would silently do nothing",
                "skip this rung: --direct sets pure_nnx_decoder: true in the same change",
            )
    if _number(config, "distill_beta") > 0:
        if target is Stage.LINEN:
            yield _blocked(
                config,
                "distill_beta",
                "above 0 needs enable_nnx",
                "set distill_beta: 0, or stay above linen",
            )
        if not _true(config, "scan_layers", default=True):
            yield _blocked(
                config, "distill_beta", "above 0 needs scan_layers: true", "set scan_layers: true"
            )
    deepseek4 = str(config.other("decoder_block", "")).lower() == "deepseek4"
    if _true(config, "routed_bias") and deepseek4 and not native:
        yield _blocked(
            config,
            "routed_bias",
            "of a deepseek4 decoder needs pure_nnx",
            "stay at hybrid or nnx, or set routed_bias: false",
        )
    if config.other("attention") == "vllm_rpa" and target is Stage.LINEN:
        yield _blocked(config, "attention", "vllm_rpa needs enable_nnx", "stay above linen")


def _silences(config: Effective, target: Stage, control: Stage | None) -> Iterator[Danger]:
    """What MaxText does not check."""
    name = config.name
    states = {Stage.HYBRID, Stage.NNX}
    crossing = control is not None and (control in states) != (target in states)
    for key, wanted in (("opt_type", "muon"), ("skip_step_on_spikes", True)):
        if crossing and config.other(key) == wanted:
            yield _warning(
                config.place_of(key),
                f"{key}: {scalars.plain(wanted)}: MaxText cannot resume such a "
                "checkpoint across pure_nnx: its optimizer states differ in structure",
                "flip between runs, load the weights alone, or convert the checkpoint: "
                "maxmig ckpt convert",
            )
    if target not in (Stage.LINEN, Stage.NNX):
        yield _warning(
            name,
            f"{target.value} is bridged: MaxText has next to no end-to-end tests of it",
            "use it to climb; run parity before and after",
        )
    if target is Stage.HYBRID:
        yield _warning(
            name,
            "hybrid: what layers sow is lost unless record_internal_nn_metrics, "
            "distill_beta or load_balance_loss_weight asks for it",
            "set record_internal_nn_metrics: 1 if you read intermediates",
        )
    if config.path.resolve().parent.name == "models":
        yield _warning(
            name,
            "a model's file: MaxText puts it on top of every configuration that "
            "names the model, and loaded by itself it skips base.yml",
            "flip the run's configuration instead",
        )
    for owner, item in nested(config):
        yield _warning(
            f"{name}:{item.line}",
            f"{owner}.{item.key} has its own value, which is not touched",
            "check that student and teacher run what you think",
        )
    if any(config.doc.get(key) for key in _GRPO):
        yield _warning(
            name,
            "GRPO: the training and the inference configuration must agree on pure_nnx",
            "put both into one plan",
        )


def _stronger(config: Effective, target: Stage) -> Iterator[Danger]:
    """What MaxText puts above the file, so that a change of the file changes nothing."""
    last = config.documents[-1][0]
    for key, value in target.flags.as_dict().items():
        origin = config.origin(key)
        if origin.value == value:
            continue
        if origin.place.startswith("environment"):
            text, safe = f"wins over what the file says of {key}", "unset it first"
        elif origin.path == last != config.path:
            text = f"the model's file wins over {config.name} for {key}"
            safe = "change or remove it there first"
        else:
            continue
        yield Danger(Severity.BLOCKED, origin.place, text, safe)


def nested(config: Effective) -> Iterator[tuple[str, Item]]:
    """The flags inside student_overrides and teacher_overrides."""
    for owner in _OVERRIDES:
        outer = config.doc.get(owner)
        for item in items(outer.node) if outer else ():
            if item.key in flags.KEYS:
                yield owner, item


def _blocked(config: Effective, key: str, text: str, safe: str) -> Danger:
    value = scalars.plain(config.other(key))
    return Danger(Severity.BLOCKED, config.place_of(key), f"{key}: {value} {text}", safe)


def _warning(place: str, text: str, safe: str) -> Danger:
    return Danger(Severity.WARNING, place, text, safe)


def _true(config: Effective, key: str, *, default: bool = False) -> bool:
    return str(config.other(key, default)).lower() in ("true", "1", "yes", "on")


def _number(config: Effective, key: str) -> float:
    value = config.other(key, 0)
    return float(value) if isinstance(value, int | float) else 0.0
