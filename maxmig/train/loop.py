"""The training loop, written once for every rung."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, Protocol

import jax

from maxmig import data, errors
from maxmig.checkpoint.store import Store
from maxmig.config import Config
from maxmig.data.loader import Loader
from maxmig.train import evaluate, folder, metrics, start
from maxmig.train.runtime import Leaves, Runtime


class Observer(Protocol):
    """Who watches a run."""

    def note(self, text: str) -> None:
        """Something that happened once."""

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """The numbers of an update."""


class Silent:
    """Watches nothing."""

    def note(self, text: str) -> None:
        """Ignores it."""

    def progress(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Ignores it."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        folder: of the run.
        runtime: its programs.
        leaves: the last state.
        first, step: number of updates at its start and at its end.
        values: the last numbers of training; empty when nothing was left to do.
    """

    folder: folder.Folder
    runtime: Runtime
    leaves: Leaves
    first: int
    step: int
    values: Mapping[str, float]


def run(
    cfg: Config, observer: Observer | None = None, *, resume_command: str = "run it again"
) -> Result:
    """Trains to `steps` updates, from wherever the run is.

    Args:
        cfg: the configuration.
        observer: hears of what happens.
        resume_command: what an interrupted user is told to type.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        MaxmigError: bad input, by its kind.
    """
    observer = observer or Silent()
    runtime = Runtime(cfg)
    loader = data.make(
        cfg,
        global_batch=cfg.train.global_batch(runtime.devices),
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )
    place = folder.of(cfg)
    with contextlib.ExitStack() as stack:
        store = _store(cfg, place) if cfg.checkpoint.enable_checkpointing else None
        if store is not None:
            stack.callback(store.close)
        begun = start.begin(runtime, store, loader)
        observer.note(f"run      {place.root}")
        observer.note(f"rung     {runtime.proof}")
        observer.note(f"data     {loader.summary}")
        observer.note(f"start    {begun.origin}")
        if begun.step >= cfg.train.steps:
            observer.note(f"nothing to do: the run has had {begun.step} of {cfg.train.steps} steps")
            return Result(place, runtime, begun.leaves, begun.step, begun.step, {})
        writer = metrics.Writer(
            place, start=begun.step, tensorboard=cfg.run.enable_tensorboard
        )
        stack.callback(writer.close)
        session = _Session(cfg, runtime, loader, store, writer, observer)
        leaves, values, interrupted = session.train(begun)
        step = session.done
        if interrupted:
            raise errors.Interrupted(_farewell(step, place, store, resume_command))
        return Result(place, runtime, leaves, begun.step, step, values)


class _Session:
    """One pass of the loop."""

    def __init__(
        self,
        cfg: Config,
        runtime: Runtime,
        loader: Loader,
        store: Store | None,
        writer: metrics.Writer,
        observer: Observer,
    ):
        self._cfg, self._runtime, self._loader = cfg, runtime, loader
        self._store, self._writer, self._observer = store, writer, observer
        self._evaluation: Loader | None = None
        self._clock = _Clock()
        self.done = 0

    def train(self, begun: start.Start) -> tuple[Leaves, Mapping[str, float], bool]:
        """Runs to the last step; returns the state, the last numbers, and whether it was stopped."""
        cfg, leaves, self.done = self._cfg, begun.leaves, begun.step
        total = cfg.train.steps
        pending: tuple[int, Any, int] | None = None
        values: Mapping[str, float] = {}
        saved = begun.step
        with _signals() as stopped:
            while self.done < total and not stopped():
                batch = next(self._loader)
                leaves, measured = self._runtime.train(leaves, self._runtime.place(batch))
                self.done += 1
                # Numbers are fetched one step late, when the device has them: no step waits for the host.
                values = self._report(pending) or values
                pending = (self.done, measured, batch["inputs"].size * jax.process_count())
                if _due(self.done, cfg.checkpoint.checkpoint_period) and self._save(leaves):
                    saved = self.done
                if _due(self.done, cfg.train.eval_interval):
                    self._evaluate(leaves)
            values = self._report(pending, force=True) or values
            wanted = stopped() or cfg.checkpoint.save_checkpoint_on_completion
            if wanted and saved != self.done:
                self._save(leaves)
            if self._store is not None:
                self._store.wait()
            return leaves, values, stopped() and self.done < total

    def _report(self, pending: Any, *, force: bool = False) -> Mapping[str, float] | None:
        if pending is None:
            return None
        step, measured, tokens = pending
        last = step == self._cfg.train.steps
        if not (force or last or _due(step, self._cfg.run.log_period)):
            return None
        values = {name: float(value) for name, value in measured.items()}
        values |= self._clock.lap(step, tokens)
        self._writer.write(step, values)
        self._observer.progress(step, self._cfg.train.steps, values)
        return values

    def _evaluate(self, leaves: Leaves) -> None:
        cfg = self._cfg
        with self._clock.paused():
            if self._evaluation is None:
                self._evaluation = evaluate.loader(self._runtime)
            found = evaluate.run(self._runtime, self._runtime.params(leaves), self._evaluation)
        self._writer.write(self.done, found.values())
        self._observer.note(f"eval     step {self.done}/{cfg.train.steps}  {found}")

    def _save(self, leaves: Leaves) -> bool:
        if self._store is None:
            return False
        cfg, runtime = self._cfg, self._runtime
        with self._clock.paused():
            self._store.save(
                self.done - 1,
                runtime.state(leaves),
                skeleton=runtime.skeleton,
                metadata={
                    "stage": runtime.proof.stage.value,
                    "proof": str(runtime.proof),
                    "param_scan_axis": cfg.stack.param_scan_axis,
                    "config_digest": cfg.digest,
                    "model_name": cfg.run.model_name,
                    "decoder_block": cfg.model.decoder_block,
                    "seed": cfg.train.init_weights_seed,
                },
                data_state=self._loader.state(),
            )
        return True


class _Clock:
    """Time per update, without pauses for evaluation and saving."""

    def __init__(self) -> None:
        self._at = time.perf_counter()
        self._step: int | None = None

    def lap(self, step: int, tokens: int) -> dict[str, float]:
        """Time per update since the last lap; nothing at the first, which holds the compilation."""
        now = time.perf_counter()
        since, before = now - self._at, self._step
        self._at, self._step = now, step
        if before is None or before == step:
            return {}
        seconds = since / (step - before)
        return {"step_time": seconds, "tokens_per_second": tokens / seconds}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        began = time.perf_counter()
        yield
        self._at += time.perf_counter() - began


def _store(cfg: Config, place: folder.Folder) -> Store:
    c = cfg.checkpoint
    return Store(
        place.checkpoints,
        layout=c.checkpoint_layout,
        keep=c.max_num_checkpoints_to_keep,
        asynchronous=c.async_checkpointing,
        ocdbt=c.checkpoint_storage_use_ocdbt,
        zarr3=c.checkpoint_storage_use_zarr3,
    )


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Yields a question: was the run asked to stop? A second Ctrl-C stops at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not in the main thread: nobody sends us signals
            before[number] = signal.signal(number, handle)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _farewell(step: int, place: folder.Folder, store: Store | None, command: str) -> str:
    if store is None:
        return f"interrupted after step {step}; nothing is saved, for enable_checkpointing is false"
    return (
        f"interrupted after step {step}; the state is saved in {place.checkpoints}. "
        f"Resume: {command}"
    )


