"""Conversions of checkpoints, side by side with `cp -r`, Orbax, and loading everything.

Every measurement is a fresh process (`convert_worker`), which tells its time without imports and
its peak memory; the ways are taken in turn, so that what else the machine does touches all of them.
"""

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from maxmig import errors

SIZES = (256, 1024, 3072)  # MiB
_MOVED = ("rename", "rename-sync", "unstack", "unstack-sync", "copy", "copy-sync")
OURS = (*_MOVED, "stream", "cast", "stream-cast", "stream-tight")
OTHERS = (
    *("cp", "cp-sync", "orbax", "everything", "everything-cast", "everything-stream-cast"),
    *("everything-compared", "everything-cast-compared"),
)
WAYS = (*OTHERS, *OURS)
WHAT = {
    "cp": "cp -r",
    "cp-sync": "cp -r, then sync of each file",
    "orbax": "Orbax: load all, save all",
    "everything": "load all, take layers apart, save all",
    "everything-cast": "load all, cast to bfloat16, save all",
    "everything-stream-cast": "load all, take layers apart, cast to bfloat16, save all",
    "everything-compared": "load all, take layers apart, save all, load that and compare",
    "everything-cast-compared": "load all, cast to bfloat16, save all, load that and compare",
    "rename": "Linen to NNX, names only, --no-fsync (by reference)",
    "rename-sync": "Linen to NNX, names only (by reference)",
    "unstack": "layers apart, a layer a chunk, --no-fsync (by reference)",
    "unstack-sync": "layers apart, a layer a chunk (by reference)",
    "copy": "Linen to NNX, --copy --no-fsync (by chunk)",
    "copy-sync": "Linen to NNX, --copy (by chunk)",
    "stream": "layers apart, arrays of one chunk (by stream)",
    "cast": "to bfloat16, arrays of one chunk (by stream)",
    "stream-cast": "layers apart and to bfloat16, arrays of one chunk (by stream)",
    "stream-tight": "layers apart, 64 MiB chunks, --max-memory 512MiB (by stream)",
}
# Which source a way starts from: a layer in each chunk, or chunks of 64 MiB across layers; else
# one chunk for each array, as Orbax writes it unless told otherwise.
_SOURCE = dict.fromkeys((*_MOVED, "cp", "cp-sync"), "layered")
_SOURCE |= {"stream-tight": "large"}


_JUDGED = 1024  # MiB: below, what does not depend on the size is most of the time
_RATIOS = (
    ("rename", "cp", 0.1),  # neither waits for the disk, as below
    ("unstack", "cp", 0.1),
    ("rename-sync", "cp-sync", 0.1),
    ("unstack-sync", "cp-sync", 0.1),
    ("copy", "cp", 1.5),
    ("copy-sync", "cp-sync", 1.5),
    ("stream", "everything", 0.5),
    ("cast", "everything-cast", 0.5),
    ("stream-cast", "everything-stream-cast", 0.5),
    ("stream", "everything-compared", 0.5),  # the same verification on both sides
    ("cast", "everything-cast-compared", 0.5),
)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One run of one way.

    Attributes:
        seconds: of the work, imports not counted.
        peak: the process's peak resident memory in bytes; 0 where it says nothing (`cp`).
        written: the bytes of disk that the result takes for itself.
    """

    seconds: float
    peak: int
    written: int


@dataclasses.dataclass(frozen=True)
class SizeResult:
    """All samples of one size, by way."""

    mib: int
    payload: int
    samples: dict[str, list[Sample]]

    def seconds(self, way: str) -> float:
        """The median time."""
        return statistics.median(sample.seconds for sample in self.samples[way])

    def peak(self, way: str) -> int:
        """The largest peak of memory."""
        return max(sample.peak for sample in self.samples[way])


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A target, and whether it was met."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.value <= self.limit else "FAIL"


def run(
    folder: Path,
    sizes: Sequence[int],
    ways: Sequence[str],
    repeats: int,
    update: Callable[[str], None],
) -> list[SizeResult]:
    """Measures.

    Args:
        folder: where checkpoints are written; what is made there is removed.
        sizes: of the checkpoints, in MiB.
        ways: which of `WAYS`.
        repeats: how often each is run.
        update: told what is going on.

    Raises:
        PreflightError: the disk is too small.
        MaxmigError: a way failed; the message has what it said.
    """
    free = shutil.disk_usage(folder).free
    if free < 4 * max(sizes) << 20:
        raise errors.PreflightError(
            f"{folder}: expected {4 * max(sizes)} MiB of free disk, there are {free >> 20} MiB; "
            "choose another with --folder, or smaller --sizes"
        )
    return [_size(folder, mib, ways, repeats, update) for mib in sizes]


def _size(
    folder: Path, mib: int, ways: Sequence[str], repeats: int, update: Callable[[str], None]
) -> SizeResult:
    work = folder / f"maxmig-bench-convert-{os.getpid()}"
    work.mkdir()
    try:
        payload = 0
        for kind in dict.fromkeys(_SOURCE.get(way, "whole") for way in ways):
            update(f"{mib} MiB: writing the {kind} source")
            payload = _worker("make", work / kind, mib=mib, kind=kind)["payload"]
        samples: dict[str, list[Sample]] = {way: [] for way in ways}
        for repeat in range(repeats):
            for way in ways:
                update(f"{mib} MiB: {WHAT[way]} ({repeat + 1} of {repeats})")
                source = work / _SOURCE.get(way, "whole")
                samples[way].append(_sample(way, source, work / "result"))
                shutil.rmtree(work / "result", ignore_errors=True)
        return SizeResult(mib, payload, samples)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sample(way: str, source: Path, result: Path) -> Sample:
    told = _worker(way, source, result=str(result))
    files = [path.stat() for path in result.rglob("*") if path.is_file()]
    written = sum(stat.st_size for stat in files if stat.st_nlink == 1)
    return Sample(told["seconds"], told["peak"], written)


def _worker(what: str, source: Path, **more: Any) -> dict[str, Any]:
    request = json.dumps({"what": what, "source": str(source), **more})
    done = subprocess.run(
        [sys.executable, "-m", "maxmig.benchmarks.convert_worker", request],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise errors.MaxmigError(f"{what}: the process failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def judge(results: Sequence[SizeResult]) -> list[Verdict]:
    """Holds what was measured against the targets; only what was measured is judged."""
    found = []
    for result in results:
        at = f"{result.mib} MiB: "
        ways = result.samples
        for way, other, limit in _RATIOS if result.mib >= _JUDGED else ():
            if way in ways and other in ways:
                ratio = result.seconds(way) / result.seconds(other)
                found.append(Verdict(f"{at}{way} / {other}", ratio, limit))
        if "stream-tight" in ways:
            peak = result.peak("stream-tight") / (1 << 20)
            found.append(Verdict(f"{at}peak memory under --max-memory 512MiB", peak, 512, "MiB"))
    small, large = results[0], results[-1]
    for way in ("rename", "unstack"):
        if large.mib >= 8 * small.mib and way in small.samples:
            ratio = large.seconds(way) / small.seconds(way)
            found.append(Verdict(f"{way}: {large.mib} MiB / {small.mib} MiB", ratio, 1.3))
    return found
