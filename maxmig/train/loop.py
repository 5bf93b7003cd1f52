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
from maxmig.train import distributed, evaluate, folder, metrics, start
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


class StoppedAtOnce(errors.Interrupted):
    """The user stopped a run twice: nothing was waited for, and nothing more was saved."""


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
        Interrupted: SIGINT or SIGTERM came; the state is saved, unless it came twice.
        KeyboardInterrupt: it came before there was anything to save.
        MaxmigError: bad input, by its kind.
    """
    observer = observer or Silent()
    if not distributed.first():
        observer = Silent()  # one process speaks for all
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_Stop())
        runtime = Runtime(cfg)
        loader = stack.enter_context(_loader(runtime))
        place = folder.of(cfg)
        store = _store(cfg, place) if cfg.checkpoint.enable_checkpointing else None
        if store is not None:
            stack.push(_closing(store))
        begun = start.begin(runtime, store, loader)
        observer.note(f"run      {place.root}")
        observer.note(f"rung     {runtime.proof}")
        observer.note(f"data     {loader.summary}")
        observer.note(f"start    {begun.origin}")
        if begun.note:
            observer.note(f"note     {begun.note}")
        if begun.step >= cfg.train.steps:
            observer.note(
                f"nothing to do: the run has had {begun.step} steps, and steps={cfg.train.steps}; "
                "give a larger number of steps to go on"
            )
            return Result(place, runtime, begun.leaves, begun.step, begun.step, {})
        writer = None
        if distributed.first():
            writer = metrics.Writer(place, start=begun.step, tensorboard=cfg.run.enable_tensorboard)
            stack.callback(writer.close)
        session = _Session(cfg, runtime, loader, store, writer, observer)
        try:
            leaves, values, interrupted = session.train(begun, stop)
        except KeyboardInterrupt:
            raise StoppedAtOnce(_abrupt(session.done, store, resume_command)) from None
        step = session.done
        if interrupted:
            raise errors.Interrupted(_farewell(step, place, store, resume_command))
        return Result(place, runtime, leaves, begun.step, step, values)


_Pending = tuple[int, Any, int]  # step, its numbers on the device, its tokens


class _Session:
    """One pass of the loop."""

    def __init__(
        self,
        cfg: Config,
        runtime: Runtime,
        loader: Loader,
        store: Store | None,
        writer: metrics.Writer | None,
        observer: Observer,
    ):
        self._cfg, self._runtime, self._loader = cfg, runtime, loader
        self._store, self._writer, self._observer = store, writer, observer
        self._evaluation: Loader | None = None
        self._clock = _Clock()
        self._remembered: Mapping[str, Any] = {}
        self.done = 0

    def train(self, begun: start.Start, stop: "_Stop") -> tuple[Leaves, Mapping[str, float], bool]:
        """Runs to the last step: the state, the last numbers, and whether it was stopped."""
        cfg, leaves, self.done = self._cfg, begun.leaves, begun.step
        self._remembered = begun.remembered
        total, period = cfg.train.steps, cfg.run.log_period
        pending: _Pending | None = None
        values: Mapping[str, float] = {}
        saved, stopped = begun.step, False
        stop.patient = True
        while self.done < total and not stopped:
            batch = next(self._loader)
            leaves, measured = self._runtime.train(leaves, self._runtime.place(batch))
            if self.done == begun.step:
                self._clock.start(self.done)  # this call compiled, which is no step's time
            self.done += 1
            # Numbers are fetched one step late, when the device has them: no step waits for it.
            values = self._report(pending) or values
            pending = (self.done, measured, batch["inputs"].size * jax.process_count())
            evaluating = _due(self.done, cfg.train.eval_interval)
            saving = self._store is not None and _due(self.done, cfg.checkpoint.checkpoint_period)
            if evaluating or saving:
                # All that is told of a step is on disk before its checkpoint is: a run that is
                # killed goes on behind the checkpoint and would never tell it.
                values, pending = self._report(pending) or values, self._undue(pending)
            if evaluating:
                self._evaluate(leaves)
            if saving:
                self._save(leaves)
                saved = self.done
            stopped = distributed.agree(stop.asked, now=_due(self.done, period))
        values = self._report(pending, force=True) or values
        if stopped and self.done < total and self._store is not None:
            self._observer.note(
                f"stopping: saving step {self.done}; a second Ctrl-C stops without waiting"
            )
        wanted = stopped or cfg.checkpoint.save_checkpoint_on_completion
        if wanted and saved != self.done:
            self._save(leaves)
        if self._store is not None:
            self._store.wait()
        return leaves, values, stopped and self.done < total

    def _report(
        self, pending: "_Pending | None", *, force: bool = False
    ) -> Mapping[str, float] | None:
        if pending is None or not (force or self._is_told(pending[0])):
            return None
        step, measured, tokens = pending
        values = {name: float(value) for name, value in jax.device_get(measured).items()}
        values |= self._clock.lap(step, tokens)
        self._write(step, values)
        self._observer.progress(step, self._cfg.train.steps, values)
        return values

    def _is_told(self, step: int) -> bool:
        return step == self._cfg.train.steps or _due(step, self._cfg.run.log_period)

    def _undue(self, pending: "_Pending") -> "_Pending | None":
        """What is left to tell: the numbers of a step that is told only if it is the last."""
        return None if self._is_told(pending[0]) else pending

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            self._writer.write(step, values)

    def _evaluate(self, leaves: Leaves) -> None:
        cfg = self._cfg
        with self._clock.paused():
            if self._evaluation is None:
                self._evaluation = evaluate.loader(self._runtime)
            found = evaluate.run(self._runtime, self._runtime.params(leaves), self._evaluation)
        self._write(self.done, found.values())
        self._observer.note(f"eval     step {self.done}/{cfg.train.steps}  {found}")

    def _save(self, leaves: Leaves) -> None:
        if self._store is None:
            return
        cfg, runtime = self._cfg, self._runtime
        with self._clock.paused():
            self._store.save(
                self.done - 1,
                runtime.state(leaves),
                skeleton=runtime.skeleton,
                metadata={
                    **self._remembered,
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


class _Clock:
    """Time per update, without pauses for evaluation and saving."""

    def __init__(self) -> None:
        self._at = time.perf_counter()
        self._step = 0

    def start(self, step: int) -> None:
        """Counts from now, when `step` updates are done."""
        self._at, self._step = time.perf_counter(), step

    def lap(self, step: int, tokens: int) -> dict[str, float]:
        """Time per update since the last lap."""
        now = time.perf_counter()
        since, before = now - self._at, self._step
        self._at, self._step = now, step
        seconds = since / (step - before)
        return {"step_time": seconds, "tokens_per_second": tokens / seconds}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        began = time.perf_counter()
        yield
        self._at += time.perf_counter() - began


class _Stop:
    """SIGINT and SIGTERM while a run lasts.

    Once `patient`, the first asks the run to save and end, and the next stops it at once; before,
    when there is nothing to save, the first stops it.
    """

    def __init__(self) -> None:
        self.asked = self.patient = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not in the main thread: signals are not ours
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked or not self.patient:
            raise KeyboardInterrupt
        self.asked = True


def _closing(store: Store) -> Callable[..., None]:
    """Closes the store at the end, which waits for a save in the background."""

    def leave(kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, KeyboardInterrupt | StoppedAtOnce):
            store.close()

    return leave


def _loader(runtime: Runtime) -> Loader:
    return data.make(
        runtime.cfg,
        global_batch=runtime.cfg.train.global_batch(runtime.devices),
        shard_index=jax.process_index(),
        shard_count=jax.process_count(),
    )


def _store(cfg: Config, place: folder.Folder) -> Store:
    c = cfg.checkpoint
    return Store(
        place.checkpoints,
        layout=c.checkpoint_layout,
        keep=c.max_num_checkpoints_to_keep,
        asynchronous=c.async_checkpointing,
        ocdbt=c.checkpoint_storage_use_ocdbt,
        zarr3=c.checkpoint_storage_use_zarr3,
        checksums=c.checkpoint_checksums,
    )


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0


def _farewell(step: int, place: folder.Folder, store: Store | None, command: str) -> str:
    if store is None:
        return f"interrupted after step {step}; nothing is saved, for enable_checkpointing is false"
    return (
        f"interrupted after step {step}; the state is saved in {place.checkpoints}. "
        f"Resume: {command}"
    )


def _abrupt(step: int, store: Store | None, command: str) -> str:
    saved = None if store is None else store.latest()
    kept = (
        "no checkpoint was saved" if saved is None else f"the last checkpoint has step {saved + 1}"
    )
    again = "Start again" if saved is None else "Resume from there"
    return f"stopped at once after step {step}, without saving; {kept}. {again}: {command}"
