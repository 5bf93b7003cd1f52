"""`maxmig train`: trains, or goes on training, under the rung that the flags name."""

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.cli import common, console
from maxmig.cli.verb import Verb

if TYPE_CHECKING:
    from maxmig.train.loop import Result


class _Watch:
    """Shows a run on stderr."""

    def __init__(self, live: console.LiveLine):
        self._live = live

    def note(self, text: str) -> None:
        self._live.close()
        console.note(text)

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        from maxmig.train import metrics

        self._live.update(metrics.line(step, total, values), final=step == total)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints the last numbers."""
    cfg = common.load_config(args)
    from maxmig.train import distributed, folder, loop

    together = distributed.start()
    if not cfg.run.run_name:
        if together:
            raise errors.ConfigError(
                "run_name: expected a name, for several processes must write to one folder; "
                "give run_name=NAME to each"
            )
        cfg = cfg.replace(run_name=folder.of(cfg).root.name)
    command = resume_command(args, cfg.run.run_name)
    try:
        with console.LiveLine() as live:
            result = loop.run(cfg, _Watch(live), resume_command=command)
    except loop.StoppedAtOnce:
        raise
    except errors.Interrupted:
        distributed.stop()
        raise
    if distributed.first():
        _tell(args, result)
    distributed.stop()
    return 0


def _tell(args: argparse.Namespace, result: "Result") -> None:
    root = result.folder.root
    if args.json:
        console.emit_json(
            {
                "run": str(root),
                "stage": result.runtime.proof.stage.value,
                "first_step": result.first,
                "steps": result.step,
                "metrics": dict(result.values),
                "checkpoints": str(result.folder.checkpoints),
            }
        )
        return
    if result.first == result.step:
        console.out(f"nothing to do: {root} has had its {result.step} steps")
        return
    loss = f"loss {result.values['loss']:.4f}"
    console.out(f"trained steps {result.first} to {result.step}: {loss}")
    console.out(f"run in {root}")


def resume_command(args: argparse.Namespace, run_name: str) -> str:
    """What to type to go on with this run."""
    overrides = [o for o in args.overrides if not o.startswith("run_name=")]
    words = ["maxmig", "train", args.config, *overrides, f"run_name={run_name}"]
    if getattr(args, "simulate_devices", None):
        words += ["--simulate-devices", str(args.simulate_devices)]
    return shlex.join(str(word) for word in words if word is not None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the verb."""
    common.add_config_arguments(parser)


VERB = Verb(
    name="train",
    help="train a model, or resume, under the rung that the flags name",
    examples=(
        "maxmig train configs/demo.yml steps=20",
        "maxmig train configs/demo.yml steps=40 enable_nnx=true pure_nnx=true "
        "pure_nnx_decoder=true",
    ),
    add_arguments=add_arguments,
    run=run,
)
