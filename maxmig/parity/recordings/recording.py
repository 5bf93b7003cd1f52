"""A recording: what one side computed, as a folder.

`manifest.json` names every array with its hash and its norm, `blobs/` has the bytes by hash, as
many as the size allows. An array without its bytes is still compared: exactly by its hash, and by
a sample where the hash differs.
"""

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from maxmig import digests, errors
from maxmig.config import Config
from maxmig.parity import levels
from maxmig.parity.findings.subject import Input
from maxmig.parity.rungs import attest
from maxmig.parity.sides.inputs import Inputs

SCHEMA_VERSION = 1
MANIFEST, CONFIG, BLOBS = "manifest.json", "config.yml", "blobs"
MEBIBYTE = 2**20
STATE, BATCH, TRAINING = "given state", "batch", "training {}"
_SAMPLE = 4096


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array of a recording.

    Attributes:
        check, item, path: what it is, as everywhere in a report.
        dtype, shape: of the array.
        sha256: of its bytes.
        norm: its L2 norm.
        whole: whether all of its bytes are there; otherwise a sample of them is.
        sample: hash of the sample's bytes; empty if the whole is there.
    """

    check: str
    item: str
    path: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    norm: float
    whole: bool
    sample: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What pairs it with another side's."""
        return self.check, self.item, self.path


class Recording:
    """A recording that was read; arrays are loaded one by one, and their hashes are checked."""

    def __init__(self, folder: str | Path):
        """Reads the manifest.

        Raises:
            DataError: there is none, it is of another version, or was edited.
        """
        self.folder = Path(folder)
        file = self.folder / MANIFEST
        try:
            self.manifest = json.loads(file.read_text(encoding="utf-8"))
            genuine = self.manifest["seal"] == _seal(self.manifest)
            version = self.manifest["schema_version"]
            self.entries = {
                entry.key: entry
                for entry in (
                    Entry(**row | {"shape": tuple(row["shape"])}) for row in self.manifest["arrays"]
                )
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise errors.DataError(
                f"{file}: expected a recording that `maxmig parity record` wrote, but: "
                f"{type(error).__name__}: {error}"
            ) from error
        if version != SCHEMA_VERSION:
            raise errors.DataError(
                f"{file}: expected a recording of schema_version {SCHEMA_VERSION}, got {version}"
            )
        if not genuine:
            raise errors.DataError(f"{file}: it was edited after it was made; record again")

    def load(self, entry: Entry) -> np.ndarray:
        """The whole array, or its sample as a vector.

        Raises:
            DataError: the bytes are not there, or not those that were recorded.
        """
        digest = entry.sha256 if entry.whole else entry.sample
        file = self.folder / BLOBS / digest
        try:
            raw = file.read_bytes()
        except OSError as error:
            raise errors.DataError(
                f"{file}: expected the bytes of {entry.path}: {error}"
            ) from error
        if hashlib.sha256(raw).hexdigest() != digest:
            raise errors.DataError(f"{file}: the bytes of {entry.path} changed since the recording")
        array = np.frombuffer(raw, np.dtype(_dtype(entry.dtype)))
        return array.reshape(entry.shape) if entry.whole else array

    @property
    def of_pair(self) -> bool:
        """Whether it is of a user's pair, and not of a rung."""
        return "pair" in self.manifest

    def config(self) -> Config:
        """The configuration, on the rung that was recorded."""
        from maxmig import config

        return config.load(self.folder / CONFIG)

    def state(self) -> dict[str, np.ndarray]:
        """The starting state."""
        return {
            path: self.load(e) for (check, _, path), e in self.entries.items() if check == STATE
        }

    def inputs(self) -> Inputs:
        """The batches."""
        found: dict[str, dict[str, np.ndarray]] = {}
        for (check, item, path), entry in self.entries.items():
            if check == BATCH:
                found.setdefault(item, {})[path] = np.array(self.load(entry))
        training = tuple(found.pop(TRAINING.format(i)) for i in range(self.manifest["steps"]))
        described = tuple(Input(**row) for row in self.manifest["inputs"])
        return Inputs(found, training, described)

    @property
    def wanted(self) -> frozenset[str]:
        """The checks of L2 that were recorded."""
        return levels.wanted((), self.manifest["steps"])


class Writer:
    """Writes a recording, array by array."""

    def __init__(self, folder: Path, max_bytes: int):
        """Makes the folder.

        Raises:
            DataError: there is a recording in it, or it cannot be written.
        """
        self.folder, self._max = folder, max_bytes
        self.entries: list[Entry] = []
        self.size = 0
        self._written: set[str] = set()
        try:
            (folder / BLOBS).mkdir(parents=True, exist_ok=True)
            if any((folder / BLOBS).iterdir()) or (folder / MANIFEST).exists():
                raise errors.DataError(
                    f"{folder}: expected an empty folder for the recording, but one is there; "
                    "choose another with --output"
                )
        except OSError as error:
            raise errors.DataError(f"{folder}: expected to record there: {error}") from error

    def add(self, key: tuple[str, str, str], array: np.ndarray, *, required: bool = False) -> None:
        """Keeps an array, or its hash and a sample.

        Raises:
            DataError: it is `required` and does not fit, or cannot be written.
        """
        raw = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        fits = digest in self._written or self.size + len(raw) <= self._max
        if required and not fits:
            raise errors.DataError(
                f"{self.folder}: batches and starting state alone need more than "
                f"{self._max / MEBIBYTE:,.0f} MiB; raise --max-size"
            )
        sample = "" if fits else self._write(sampled(array).tobytes())
        if fits:
            self._write(raw, digest)
        norm = float(np.linalg.norm(array.astype(np.float64))) if array.dtype.kind != "b" else 0.0
        norm = norm if np.isfinite(norm) else -1.0
        self.entries.append(Entry(*key, str(array.dtype), array.shape, digest, norm, fits, sample))

    def finish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the manifest, with all arrays, versions and the seal; returns it.

        Raises:
            DataError: it cannot be written.
        """
        whole = {
            "schema_version": SCHEMA_VERSION,
            "kind": "maxmig.parity.recording",
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": attest.environment(),
            "bytes": self.size,
            **manifest,
            "arrays": [dataclasses.asdict(entry) for entry in self.entries],
        }
        whole["seal"] = _seal(whole)
        text = json.dumps(whole, indent=1, allow_nan=False)
        try:
            (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        except OSError as error:
            raise errors.DataError(f"{self.folder}: recording failed: {error}") from error
        return whole

    def _write(self, raw: bytes, digest: str = "") -> str:
        digest = digest or hashlib.sha256(raw).hexdigest()
        if digest not in self._written:
            try:
                (self.folder / BLOBS / digest).write_bytes(raw)
            except OSError as error:
                raise errors.DataError(f"{self.folder}: recording failed: {error}") from error
            self._written.add(digest)
            self.size += len(raw)
        return digest


def sampled(array: np.ndarray) -> np.ndarray:
    """At most 4,096 numbers, evenly spread over an array."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat[:: max(1, -(-flat.size // _SAMPLE))]


def _dtype(name: str) -> Any:
    return jax.numpy.dtype(name)


def _seal(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return digests.of_json(rest, allow_nan=False)
