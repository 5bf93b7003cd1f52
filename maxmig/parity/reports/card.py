"""The card: the evidence of one parity run, small enough to commit beside the configuration.

The seal finds a card that was edited or put together by hand. It is a hash and no signature: who
wants to forge one can, but not by changing FAIL to PASS in an editor.
"""

import dataclasses
import datetime
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import maxmig
from maxmig import digests, errors

if TYPE_CHECKING:
    from maxmig.config import Config, Stage
    from maxmig.parity.reports.report import Report

SCHEMA_VERSION = 1
NAME = "card.yaml"

_TYPES: dict[str, type] = {
    "schema_version": int,
    "verdict": str,
    "subject": dict,
    "levels": dict,
    "coverage": dict,
    "command": str,
    "made": str,
    "assured": list,
    "seal": str,
}


@dataclasses.dataclass(frozen=True)
class Card:
    """The evidence of one run.

    Attributes:
        verdict: PASS, FAIL or INCONCLUSIVE.
        subject: what was compared: `config_digest`, `maxmig`, `code_digest`, `control`,
            `candidate`, `model`, `checkpoint`, `checkpoint_hash`.
        levels: by name (`static`, `semantic`, `native`, `behaviour`), each with its `verdict`.
        coverage: what was reached: parameters, tokens, steps; and what was not.
        command: what repeats the run.
        made: when, ISO 8601, UTC.
        assured: overrides by people, with their reasons.
        seal: of all the above; see `sealed`.
    """

    verdict: str
    subject: Mapping[str, Any]
    levels: Mapping[str, Mapping[str, Any]]
    coverage: Mapping[str, Any]
    command: str
    made: str
    assured: tuple[str, ...] = ()
    seal: str = ""
    schema_version: int = SCHEMA_VERSION

    def sealed(self) -> "Card":
        """The same card with the seal that belongs to it."""
        return dataclasses.replace(self, seal=self._seal())

    @property
    def genuine(self) -> bool:
        """Whether the seal is that of what the card says."""
        return self.seal == self._seal()

    def document(self) -> dict[str, Any]:
        """The card as plain types, in the order of the file."""
        return {name: _plain(getattr(self, name)) for name in _TYPES}

    def write(self, path: str | Path) -> Path:
        """Writes the card, sealed, to a file; returns its path.

        Raises:
            DataError: it cannot be written.
        """
        path = Path(path)
        head = "# Evidence of one `maxmig parity run`; sealed: not to be edited.\n"
        text = yaml.safe_dump(self.sealed().document(), sort_keys=False, width=100)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + text, encoding="utf-8")
        except OSError as error:
            raise errors.DataError(f"{path}: expected to write the card there: {error}") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Card":
        """Reads a card, or the one in a run's folder. A wrong seal is left to `problems`.

        Raises:
            DataError: there is none, or it is no card of this version of maxmig.
        """
        path = Path(path)
        path = path / NAME if path.is_dir() else path
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise errors.DataError(
                f"{path}: no such card; `maxmig parity run CONFIG --run-dir DIR` writes one"
            ) from None
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            told = " ".join(str(error).split())
            raise errors.DataError(f"{path}: expected a card (YAML), but: {told}") from error
        _check(path, found)
        values = {name: found[name] for name in _TYPES}
        return cls(**values | {"assured": tuple(str(item) for item in values["assured"])})

    def problems(
        self,
        cfg: "Config",
        control: "Stage | str",
        candidate: "Stage | str",
        max_age: datetime.timedelta | None = None,
        now: datetime.datetime | None = None,
    ) -> list[str]:
        """Why the card is no evidence for going from `control` to `candidate` under `cfg`.

        Args:
            cfg: the configuration whose flags are to be changed; its flags have no say here.
            control: the rung that was trusted.
            candidate: the rung to go to.
            max_age: how old the card may be; None does not ask.
            now: the present, with its time zone; the clock's by default.

        Returns:
            One sentence each; none if the card is good.
        """
        if not self.genuine:
            return [
                "its seal does not fit what it says: it was edited after it was made, or not made "
                "by maxmig; run parity again"
            ]
        found = [] if self.verdict == "PASS" else [f"its verdict is {self.verdict}, not PASS"]
        found += self._of_other_rungs(control, candidate)
        expected = {
            "config_digest": (config_digest(cfg), "the configuration changed after it was made"),
            "code_digest": (code_digest(), "maxmig's code is not the one that made it"),
        }
        for key, (value, text) in expected.items():
            came = str(self.subject.get(key, ""))
            if came != value:
                found.append(f"{text}: {key} {value[:12]} expected, {came[:12] or 'none'} came")
        if only := self.coverage.get("only"):
            found.append(f"it is about {', '.join(map(str, only))} only; run it without --only")
        if faults := self.coverage.get("faults"):
            found.append(f"it is no comparison of two rungs as they are: {faults[0]}")
        return found + self._too_old(max_age, now or datetime.datetime.now(datetime.UTC))

    def _of_other_rungs(self, control: "Stage | str", candidate: "Stage | str") -> list[str]:
        wanted = [getattr(rung, "value", rung) for rung in (control, candidate)]
        came = [self.subject.get("control"), self.subject.get("candidate")]
        if wanted == came:
            return []
        return [f"it is about {came[0]} -> {came[1]}, but {wanted[0]} -> {wanted[1]} was asked for"]

    def _too_old(self, max_age: datetime.timedelta | None, now: datetime.datetime) -> list[str]:
        try:
            made = datetime.datetime.fromisoformat(self.made)
        except ValueError:
            return [f"it does not say when it was made: {self.made!r}"]
        if made.tzinfo is None:
            made = made.replace(tzinfo=datetime.UTC)
        if made - now > datetime.timedelta(minutes=5):  # clocks differ a little
            return [f"it was made in the future, {self.made}; check the clock"]
        if max_age is not None and now - made > max_age:
            return [f"it is {_days(now - made)} old, and may be {_days(max_age)} old at most"]
        return []

    def _seal(self) -> str:
        document = {name: value for name, value in self.document().items() if name != "seal"}
        return digests.of_json(document, allow_nan=False)


def of(report: "Report") -> Card:
    """The card of a report, sealed."""
    s, c, origin = report.subject, report.coverage, report.origin
    levels = {
        part.level: {
            "verdict": part.verdict.value,
            "found": part.told,
            "checks": {check.name: check.verdict.value for check in part.checks},
        }
        for part in report.by_level
    }
    subject = {
        "config": s.config,
        "config_digest": s.rungs_digest,
        "maxmig": report.environment.get("maxmig", ""),
        "code_digest": s.code_digest,
        "control": report.control.proved,
        "candidate": report.candidate.proved,
        "model": s.model,
        "checkpoint": origin.source if origin else "",
        "checkpoint_hash": report.checkpoint_hash,
        "dtypes": dict(s.dtypes),
        "devices": s.devices,
    }
    steps = any(check.name == "params" and check.level == "native" for check in report.checks)
    coverage = {
        "parameters": c.parameters,
        "gradients": c.gradients,
        "proved": sum(len(getattr(check.details, "proved", ())) for check in report.checks),
        "steps": report.steps if steps else 0,
        "tokens": sum(i.rows * i.length for i in report.inputs),
        "longest": max((i.length for i in report.inputs), default=0),
        "only": list(report.only),
        "skipped": list(c.skipped),
        "zero_gradients": list(c.zero_gradients),
        "unmoved": list(c.unmoved),
        "faults": [note for note in report.notes if "on purpose" in note or "A/A" in note],
    }
    if not report.compared:  # a proof needs no arrays
        coverage |= {"steps": 0, "tokens": 0, "longest": 0}
    made = report.made.replace("+00:00", "Z")
    return Card(report.verdict.value, subject, levels, coverage, report.command, made).sealed()


def config_digest(cfg: "Config") -> str:
    """The hash of a configuration without the three flags: a card is about two of its rungs."""
    from maxmig.config.flags import KEYS

    values = {key: value for key, value in cfg.flat().items() if key not in KEYS}
    return digests.of_json(_plain(values), allow_nan=False)


@functools.cache
def code_digest() -> str:
    """The hash of maxmig's own source: every .py file that a model runs through, by its path."""
    from maxmig import converters

    # Installed, converters/ lies within maxmig/; in a checkout beside it.
    files = {
        f"{name}/{path.relative_to(folder).as_posix()}": path
        for name, package in (("maxmig", maxmig), ("maxmig/converters", converters))
        for folder in map(Path, package.__path__)
        for path in folder.rglob("*.py")
        if path.relative_to(folder).parts[0] not in ("benchmarks", "configs")
    }
    found = hashlib.sha256()
    for name, path in sorted(files.items()):
        found.update(name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return found.hexdigest()


def _check(path: Path, found: Any) -> None:
    if not isinstance(found, dict):
        raise errors.DataError(f"{path}: expected a card, a mapping, got {type(found).__name__}")
    if isinstance(found.get("made"), datetime.datetime):  # written by hand without quotes
        found["made"] = found["made"].isoformat()
    version = found.get("schema_version")
    if version != SCHEMA_VERSION:
        raise errors.DataError(
            f"{path}: expected a card of schema_version {SCHEMA_VERSION}, got {version!r}"
        )
    for name, kind in _TYPES.items():
        if not isinstance(found.get(name), kind):
            came = type(found[name]).__name__ if name in found else "nothing"
            raise errors.DataError(f"{path}: {name}: expected a {kind.__name__}, got {came}")
    if unknown := sorted(str(name) for name in found.keys() - _TYPES.keys()):
        raise errors.DataError(f"{path}: unknown keys in the card: {', '.join(unknown)}")


def _plain(value: Any) -> Any:
    """JSON's own types, which YAML gives back as they were."""
    from maxmig.cli import console

    return console.jsonable(value)


def _days(age: datetime.timedelta) -> str:
    days = age / datetime.timedelta(days=1)
    return f"{days:.1f} days" if days >= 1 else f"{24 * days:.1f} hours"
