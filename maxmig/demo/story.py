"""The chapters of the demo: what a user would do, through the functions behind the verbs."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from maxmig import errors, infer, parity
from maxmig.config import Config, Stage
from maxmig.converters import accounting, checkpoint, convert
from maxmig.converters.compare import diff
from maxmig.data import tokenizer
from maxmig.train import loop, metrics
from maxmig.train.loop import Observer, Result

Record = Mapping[str, Any]

_MARK = ".made-by-maxmig-demo"


class Teller(Observer, Protocol):
    """Who hears the story."""

    def chapter(self, title: str) -> None:
        """A new part begins."""

    def tell(self, text: str) -> None:
        """A result."""


@dataclasses.dataclass(frozen=True)
class Fact:
    """One claim of the demo, and whether it held."""

    claim: str
    held: bool
    detail: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the demo found.

    Attributes:
        facts: the claims, in order.
        control: metrics of the run that stayed under Linen.
        migrated: metrics of the run whose flags were flipped.
        flipped_at: the step at which they were.
        flips: the flags, before and after.
        text: continuation of each prompt under (Linen, NNX).
        conversion: the fates of the converted leaves, one line each.
        parity: the parity report.
        seconds: how long everything took.
    """

    facts: tuple[Fact, ...]
    control: tuple[Record, ...]
    migrated: tuple[Record, ...]
    flipped_at: int
    flips: Mapping[str, tuple[bool, bool]]
    text: Mapping[str, tuple[str, str]]
    conversion: tuple[str, ...]
    parity: parity.Report
    seconds: float

    def __bool__(self) -> bool:
        return all(fact.held for fact in self.facts)


def tell(cfg: Config, output: Path, teller: Teller) -> Outcome:
    """Runs the demo.

    Args:
        cfg: a configuration, at the bottom of the ladder; two thirds of its steps run under Linen.
        output: a folder, made anew.
        teller: hears the story.

    Raises:
        PreflightError: the folder holds something that no demo made.
    """
    began = time.monotonic()
    _clear(output)
    total, half = cfg.train.steps, max(1, cfg.train.steps * 2 // 3)
    # Both legs follow one schedule, whatever their own number of steps.
    cfg = cfg.replace(
        base_output_directory=str(output), learning_rate_schedule_steps=total, log_period=1
    )
    linen = _at(cfg, Stage.LINEN).replace(run_name="run")
    nnx = _at(cfg, Stage.NNX).replace(run_name="run")
    flips = _flips(linen, nnx)

    teller.chapter(f"Train {half} steps under Linen")
    first = _train(linen.replace(steps=half), teller)
    source = first.folder.checkpoints

    teller.chapter("Convert its checkpoint to NNX, and compare leaf by leaf")
    conversion, same = _convert(source, output / "converted", teller)

    teller.chapter("Check parity: one set of weights, both frameworks")
    trained = linen.replace(steps=half)
    report = parity.run(trained, candidate=Stage.NNX, checkpoint=source, note=teller.note)
    teller.tell(report.summary)

    teller.chapter("Flip the three flags and go on, in the same directory")
    for key, (old, new) in flips.items():
        teller.tell(f"{key}: {str(old).lower()} -> {str(new).lower()}")
    stayed, moved = _go_on(first, linen.replace(run_name="control"), nnx, teller)
    control_curve, migrated_curve = (metrics.read(r.folder.metrics) for r in (stayed, moved))

    teller.chapter("Let both write")
    text = _write(teller, (linen, stayed), (nnx, moved))
    return Outcome(
        facts=(
            Fact("the converted checkpoint holds every leaf, bit for bit", same, conversion[-1]),
            Fact("Linen and NNX compute the same from it", bool(report), report.summary),
            _same_losses(control_curve, migrated_curve, half),
            _same_state(stayed, moved),
            _same_text(text),
        ),
        control=tuple(control_curve),
        migrated=tuple(migrated_curve),
        flipped_at=half,
        flips=flips,
        text=text,
        conversion=conversion,
        parity=report,
        seconds=time.monotonic() - began,
    )


def _clear(output: Path) -> None:
    """Makes the folder anew, but never deletes what is not the demo's."""
    if output.exists() and any(output.iterdir()) and not (output / _MARK).exists():
        raise errors.PreflightError(
            f"{output}: expected an empty folder, or one of an earlier demo, to write to, but it "
            "holds other files; give another one with --output DIR"
        )
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / _MARK).touch()


def _at(cfg: Config, stage: Stage) -> Config:
    return cfg.replace(**stage.flags.as_dict())


def _flips(linen: Config, nnx: Config) -> dict[str, tuple[bool, bool]]:
    before, after = (cfg.flags.stage.flags.as_dict() for cfg in (linen, nnx))
    return {key: (old, after[key]) for key, old in before.items()}


def _train(cfg: Config, teller: Teller) -> Result:
    result = loop.run(cfg, teller)
    losses = [record["loss"] for record in metrics.read(result.folder.metrics) if "loss" in record]
    teller.tell(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} nats a byte")
    return result


def _go_on(first: Result, control: Config, nnx: Config, teller: Teller) -> tuple[Result, Result]:
    root = first.folder.root
    shutil.copytree(root, root.with_name("control"))
    teller.note("once under Linen, as the control")
    stayed = loop.run(control, teller)
    teller.note("once under NNX")
    return stayed, loop.run(nnx, teller)


def _convert(source: Path, destination: Path, teller: Teller) -> tuple[tuple[str, ...], bool]:
    plan = convert.plan(checkpoint.read(source), "nnx")
    convert.run(plan, destination)
    report = _diff(source, destination)
    lines = [
        f"{row['side']}: {row['leaves']} leaves {row['what']}, {accounting.size(row['bytes'])}"
        for row in plan.accounting.rows()
    ]
    lines.append(_summary(report))
    for line in lines:
        teller.tell(line)
    return tuple(lines), bool(report)


def _same_losses(control: Sequence[Record], migrated: Sequence[Record], half: int) -> Fact:
    pairs = list(zip(control, migrated, strict=True))
    names = ("loss", "grad_norm", "param_norm", "learning_rate")
    trained = [(a, b) for a, b in pairs if a["step"] > half and "loss" in a]
    unequal = [a["step"] for a, b in trained if any(a[n] != b[n] for n in names)]
    where = f"; first difference at step {unequal[0]}" if unequal else ", bit for bit"
    return Fact(
        "the NNX run goes on as if nothing had happened",
        bool(trained) and not unequal,
        f"loss, gradient norm and weight norm of {len(trained)} steps{where}",
    )


def _same_state(control: Result, migrated: Result) -> Fact:
    report = _diff(control.folder.checkpoints, migrated.folder.checkpoints)
    return Fact("their last checkpoints are equal, across layouts", bool(report), _summary(report))


def _same_text(text: Mapping[str, tuple[str, str]]) -> Fact:
    same = all(a == b for a, b in text.values())
    return Fact("both write the same text", same, f"{len(text)} prompts")


def _diff(a: Path, b: Path) -> diff.Report:
    return diff.diff(checkpoint.read(a), checkpoint.read(b))


def _summary(report: diff.Report) -> str:
    if not report:
        return report.summary()
    cast = [line.path for line in report.lines if line.sign == "~"]
    but = f"; {', '.join(cast)} in another integer type" if cast else ""
    return f"{report.compared} arrays compared, all equal bit for bit{but}"


def _write(teller: Teller, *runs: tuple[Config, Result]) -> dict[str, tuple[str, str]]:
    prompts = (runs[0][0].generate.prompt, "A class is ", "import ")
    words = tokenizer.load(runs[0][0])
    written = []
    for cfg, result in runs:
        params = dict(
            zip(result.runtime.param_paths, result.runtime.params(result.leaves), strict=True)
        )
        generator = infer.Generator(cfg, result.runtime.backend)
        tokens = generator.generate(params, [words.encode(p) for p in prompts], 120)
        written.append([words.decode(row.tolist()) for row in tokens])
    text = {p: (a, b) for p, a, b in zip(prompts, *written, strict=True)}
    for prompt, (a, b) in text.items():
        teller.tell(f"Linen: {prompt}{a}\nNNX:   {prompt}{b}")
    return text
