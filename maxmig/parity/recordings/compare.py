"""Holds a recording against a rung that runs now, or against another recording."""

import dataclasses
import datetime
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from maxmig import errors
from maxmig.config import Stage
from maxmig.parity.findings import measure
from maxmig.parity.findings.measurement import START, Measurement
from maxmig.parity.findings.policy import Policy
from maxmig.parity.findings.subject import Origin, Side
from maxmig.parity.recordings.recording import BATCH, STATE, Entry, Recording, sampled
from maxmig.parity.reports.report import Report
from maxmig.parity.rungs import attest, checks
from maxmig.parity.rungs.request import Request
from maxmig.parity.sides import start as starts
from maxmig.parity.sides.observe import observe

Key = tuple[str, str, str]
# What the other side has: the array itself, or what another recording keeps of it.
Other = np.ndarray | Entry


def run(
    recording: Recording,
    other: Recording | None = None,
    *,
    candidate: Stage | str = Stage.NNX,
    policy: str = "auto",
    devices: Sequence[jax.Device] | None = None,
    config_name: str = "",
    command: str = "",
    note: Callable[[str], object] = lambda text: None,
) -> Report:
    """Compares, with the recording as the control.

    Args:
        recording: the trusted side.
        other: the recording of the other side; None runs `candidate` now, from the recorded state
            and on the recorded batches.
        candidate: the rung to run.
        policy: `bitwise`, `ratio`, or `auto`. There is no float64 truth here, since the control's
            program may be gone: where bits differ, fixed limits judge.
        devices: all of this host by default.
        config_name: what to call the configuration in the report.
        command: what repeats it.
        note: is told what is going on.
    """
    began = time.monotonic()
    cfg = recording.config()
    rung = Stage(other.manifest["side"]["proved"]) if other else Stage(candidate)
    steps = recording.manifest["steps"]
    request = Request(
        cfg, rung, rung, steps=steps, levels=("L2",), policy=policy, devices=devices, note=note
    )
    request.check()
    pair = request.runtimes()
    report = attest.describe(request, pair, config_name or str(recording.folder))
    control = _side(recording)
    theirs = _side(other) if other else report.candidate
    problem = _unlike(recording, other)
    report = dataclasses.replace(
        report,
        control=control,
        candidate=theirs,
        command=command,
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        notes=_notes(recording, other),
        doubts=(problem,) if problem else attest.doubts(control, theirs, allow_same=bool(other)),
        inputs=recording.inputs().described,
        origin=_origin(recording),
        checkpoint_hash=_weights(recording),
    )
    if not report.doubts:
        if other is None:
            note(f"candidate {rung.value}: held against {recording.folder}")
            seen = observe(pair[1], recording.state(), recording.inputs(), recording.wanted)
            arrays: Iterable[tuple[Key, Other]] = ((o.key, o.array) for o in seen)
        else:
            arrays = other.entries.items()
        report = _hold(report, recording, other, arrays, report.policy)
    return dataclasses.replace(report, seconds=time.monotonic() - began)


def _hold(
    report: Report,
    recording: Recording,
    other: Recording | None,
    arrays: Iterable[tuple[Key, Other]],
    policy: Policy,
) -> Report:
    left = {_key(entry.key): entry for entry in recording.entries.values() if entry.check != BATCH}
    found: dict[str, list[Measurement]] = {}
    sampled_only = 0
    for key, theirs in ((_key(k), x) for k, x in arrays if k[0] != BATCH):
        entry = left.pop(key, None)
        if entry is None:
            found.setdefault(key[0], []).append(
                measure.missing(key[1], key[2], "the control does not have it")
            )
            continue
        m, whole = _measure(recording, entry, other, theirs)
        sampled_only += not whole
        found.setdefault(key[0], []).append(m)
    for check, item, path in left:
        text = "the candidate does not have it"
        found.setdefault(check, []).append(measure.missing(item, path, text))
    start = {(k[0], k[1], k[2]): e.sha256 for k, e in recording.entries.items()}
    parameters = [k[2] for k in start if k[0] == STATE and k[2].startswith("params/")]
    steps = recording.manifest["steps"]
    last = f"step {steps}"
    unmoved = tuple(
        path.removeprefix("params/")
        for path in parameters
        if start.get(("params", last, path)) == start[STATE, STATE, path]
    )
    skipped = []
    if sampled_only:
        skipped.append(
            f"{sampled_only} arrays with other bits are compared by a sample of 4,096 numbers: "
            "the recording was not allowed more (--max-size)"
        )
    coverage = checks.coverage(found, steps, unmoved, len(parameters))
    made = checks.build(found, policy, recording.wanted, unmoved, len(parameters))
    return dataclasses.replace(
        report,
        checks=tuple(check for check in made if check.name != "configuration"),
        coverage=dataclasses.replace(coverage, skipped=(*coverage.skipped, *skipped)),
    )


def _measure(
    recording: Recording, entry: Entry, other: Recording | None, theirs: Other
) -> tuple[Measurement, bool]:
    """The measurement, and whether it is of the whole array."""
    check, item, path = _key(entry.key)
    if isinstance(theirs, np.ndarray):
        raw = np.ascontiguousarray(theirs).tobytes()
        same = hashlib.sha256(raw).hexdigest() == entry.sha256
        shape, dtype = theirs.shape, str(theirs.dtype)
    else:
        same, shape, dtype = theirs.sha256 == entry.sha256, theirs.shape, theirs.dtype
    alike = (shape, dtype) == (entry.shape, entry.dtype)
    elements = int(np.prod(entry.shape))
    if same and alike and check != "state":
        finite = entry.norm >= 0
        problem = "" if finite else "not finite, on both sides alike"
        zero = not entry.norm and entry.dtype != "bool"
        made = Measurement(item, path, dtype, shape, elements=elements, zero=zero, problem=problem)
        return dataclasses.replace(made, values=_values(recording, entry)), True
    if not alike:
        text = f"{entry.dtype} {list(entry.shape)} in the control, {dtype} {list(shape)} in the "
        return measure.missing(item, path, text + "candidate", elements), True
    ours = recording.load(entry)
    if isinstance(theirs, Entry):
        assert other is not None
        array, whole = other.load(theirs), entry.whole and theirs.whole
        ours = ours if whole or not entry.whole else sampled(ours)
        array = array if whole or not theirs.whole else sampled(array)
    else:
        whole = entry.whole
        array = theirs if whole else sampled(theirs)
    m = measure.compare(item, path, ours, array)
    if check == "state" and not m.problem and not (ours.all() and array.all()):
        m = dataclasses.replace(m, problem="does not hold")
    if not whole and m.exact:
        m = dataclasses.replace(m, problem="other bits, outside of the sample that was kept")
    return m, whole


def _values(recording: Recording, entry: Entry) -> tuple[float, float] | None:
    if entry.shape or not entry.whole:
        return None
    value = float(recording.load(entry))
    return value, value


def _key(key: Key) -> Key:
    """The starting state is what the check `start` is about."""
    return ("start", START, key[2]) if key[0] == STATE else key


def _unlike(recording: Recording, other: Recording | None) -> str:
    if other is None:
        return ""
    for name, what in (("config_digest", "configurations"), ("steps", "numbers of steps")):
        if recording.manifest[name] != other.manifest[name]:
            return f"the recordings are of different {what}, so they cannot be compared"
    ours, theirs = (
        {k: e.sha256 for k, e in r.entries.items() if k[0] == BATCH} for r in (recording, other)
    )
    return "" if ours == theirs else "the recordings are of different batches"


def _side(recording: Recording) -> Side:
    return Side(**recording.manifest["side"])


def _origin(recording: Recording) -> Origin:
    row = dict(recording.manifest["origin"])
    return Origin(**row | {"nudged": tuple(row["nudged"])})


def _weights(recording: Recording) -> str:
    return starts.hash_of(dict(_params(recording)))


def _params(recording: Recording) -> Iterator[tuple[str, np.ndarray]]:
    for (check, _, path), entry in recording.entries.items():
        if check == STATE and path.startswith("params/"):
            yield path, recording.load(entry)


def _notes(recording: Recording, other: Recording | None) -> tuple[str, ...]:
    found = []
    for name, r in (("control", recording), ("candidate", other)):
        if r is not None:
            v = r.manifest["versions"]
            found.append(
                f"the {name} is a recording of {r.manifest['made']}: jax {v['jax']}, flax "
                f"{v['flax']}, {v['platform']}; {r.folder}"
            )
    return tuple(found)


def recordings(first: str | Path, second: str | Path | None) -> tuple[Recording, Recording | None]:
    """Both recordings.

    Raises:
        DataError: one cannot be read.
    """
    if second is not None and Path(first).resolve() == Path(second).resolve():
        raise errors.DataError(f"{first}: expected two recordings, got the same one twice")
    return Recording(first), None if second is None else Recording(second)
