"""Parity in a user's own tests: `assert_parity`, and the fixture `maxmig_pair`.

pytest loads this file in every session, before any conftest.py: it is not in maxmig.parity, which
imports jax, whose settings a conftest may still want to make.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from maxmig.parity import Pair, Report
    from maxmig.parity.findings.check import Check


def assert_parity(
    control: Any,
    candidate: Any = None,
    inputs: Any = None,
    *,
    config: Any = None,
    levels: tuple[str, ...] = ("L0", "L1", "L2"),
    mapping: Any = None,
    **options: Any,
) -> "Report":
    """Fails the test unless two sides compute the same; returns the report.

    Args:
        control: a Linen module; or a whole pair: `pkg.module:function`, a function, a `Pair`; or,
            with `config`, a rung such as `linen`.
        candidate: the NNX module, or a rung.
        inputs: arguments of both modules' call: a tuple, or a dict by keyword.
        config: compare rungs of this configuration: a file, the name of a built-in one, a Config.
        levels: `L0` a proof, `L1` float64, `L2` real arrays, `L3` what a user sees.
        mapping: where each weight goes; see `Pair.mapping`.
        **options: more fields of a `Pair`, or more arguments of `maxmig.parity.run`.

    Raises:
        AssertionError: the verdict is not PASS; the text says where they differ.
    """
    __tracebackhide__ = True
    if config is not None:
        report = _rungs(config, control, candidate or "nnx", levels, options)
    else:
        report = _pair(control, candidate, inputs, levels, mapping, options)
    if not report:
        raise AssertionError(_text(report))
    return report


@dataclasses.dataclass(frozen=True)
class PairRun:
    """A pair under test; it is compared once a session, when the first test asks.

    Attributes:
        spec: `pkg.module:function`.
    """

    spec: str

    @property
    def pair(self) -> "Pair":
        """The pair itself."""
        from maxmig.parity import pairs

        return pairs.load(self.spec)

    @property
    def report(self) -> "Report":
        """What was found."""
        return _compared(self.spec)

    def check(self, name: str) -> "Check":
        """Fails the test unless the check of that name passed.

        Args:
            name: `mapping`, `outputs`, `state`, `loss`, `gradients`, `input_gradients` or `params`.

        Raises:
            AssertionError: it did not pass, or was not made.
        """
        __tracebackhide__ = True
        found = [c for c in self.report.checks if c.name == name]
        if not found:
            made = ", ".join(dict.fromkeys(c.name for c in self.report.checks))
            raise AssertionError(f"{self.spec}: no check {name!r} was made; there are {made}")
        for check in found:
            if not check:
                from maxmig.parity.reports.wording import describe

                raise AssertionError(f"{self.spec}: {name}: {describe(check)}")
        return found[0]


@pytest.fixture
def maxmig_pair(request: pytest.FixtureRequest) -> PairRun:
    """The pair that the test is parametrised with, or that of `--maxmig-pair`.

    `@pytest.mark.parametrize("maxmig_pair", ["pkg.module:function"], indirect=True)`
    """
    spec = getattr(request, "param", None) or request.config.getoption("--maxmig-pair")
    if not spec:
        pytest.skip("no pair: parametrize maxmig_pair, or give --maxmig-pair pkg.module:function")
    return PairRun(spec)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--maxmig-pair`."""
    parser.getgroup("maxmig").addoption(
        "--maxmig-pair",
        metavar="PKG.MODULE:FUNCTION",
        default=None,
        help="the pair of modules that the fixture maxmig_pair is about",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_sessionfinish() -> Iterator[None]:
    """Forgets the reports."""
    yield
    _compared.cache_clear()


@functools.cache
def _compared(spec: str) -> "Report":
    from maxmig.parity import pairs

    return pairs.run(spec)


def _pair(
    control: Any,
    candidate: Any,
    inputs: Any,
    levels: tuple[str, ...],
    mapping: Any,
    options: dict[str, Any],
) -> "Report":
    from maxmig.parity import pairs

    spec: str | Pair | Callable[[], Any] = control
    if candidate is not None:
        spec = pairs.Pair(control, candidate, () if inputs is None else inputs, **options)
    elif options:
        raise TypeError(
            f"assert_parity: {', '.join(options)}: such options go with two modules; return a Pair "
            "from the function instead"
        )
    return pairs.run(spec, levels=levels, mapping=mapping)


def _rungs(
    config: Any, control: str, candidate: str, levels: tuple[str, ...], options: dict[str, Any]
) -> "Report":
    from maxmig import parity
    from maxmig.config import Config, load

    cfg = config if isinstance(config, Config) else load(config, [])
    return parity.run(cfg, control=control, candidate=candidate, levels=levels, **options)


def _text(report: "Report") -> str:
    lines = [f"parity {report.verdict.value}: {report.summary}"]
    lines += [f"  {reason}" for reason in report.reasons]
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines)
