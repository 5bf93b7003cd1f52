"""What a user hands over to be compared, and how it is found and checked."""

import contextlib
import dataclasses
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flax import linen, nnx

from maxmig import errors

FORM = "(linen_module, nnx_module, inputs)"
MODES = ("train", "eval")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A Linen module, the NNX module that shall replace it, and inputs for both.

    Attributes:
        linen: the control; it is initialised here, once, and its weights go to both sides. None
            where it is gone and a recording stands for it.
        nnx: the candidate; its own weights do not matter. None where it is not written yet, and
            the control is to be recorded.
        inputs: a tuple of positional arguments, or a dict of arguments by keyword.
        nnx_inputs: inputs of the NNX module where they differ from `inputs`.
        name: what to call the pair in reports.
        loss: from the outputs (and, if it takes two arguments, the inputs) to a scalar; by default
            the sum of all outputs weighted by fixed random numbers.
        mapping: where each weight goes, or the path of a mapping file; traced by default.
        mutable: Linen collections that a call may change; all but `params` by default.
        modes: out of `train` and `eval`; by default those that the modules offer.
        method: the method to call on the Linen side, `__call__` by default.
        nnx_method: the method to call on the NNX side, by default as `method`.
        optimizer: an optax optimizer: steps with it are compared too.
        steps: how many optimizer steps.
        seed: of the weights, and of everything that is drawn.
        random_inputs: whether the sides are run on random inputs of the same shapes and types as
            well, whole numbers within the range of the given ones; False if only those are valid.
        variables: weights of the Linen side to use in place of initialised ones.
        logits: for L3: which output is logits over a vocabulary, by its name (`outputs/0`), True
            for the only one, or a function from the outputs to them; False if none is. By default
            an output whose last axis is as long as an embedding of the control.
        next_logits: for L3: a step of decoding, a function `(call, tokens)`: `call` runs the module
            in evaluation, `tokens` [B, n] are all so far; it returns the logits [B, V] of the next.
    """

    linen: Any
    nnx: Any
    inputs: Any
    nnx_inputs: Any = None
    name: str = ""
    loss: Callable[..., Any] | None = None
    mapping: Any = None
    mutable: tuple[str, ...] | None = None
    modes: tuple[str, ...] | None = None
    method: str = "__call__"
    nnx_method: str = ""
    optimizer: Any = None
    steps: int = 2
    seed: int = 0
    random_inputs: bool = True
    variables: Mapping[str, Any] | None = None
    logits: Any = None
    next_logits: Callable[[Callable[..., Any], Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.linen is None and self.nnx is None:
            raise errors.ConfigError(
                f"{self._of('linen and nnx')}expected a module, got None twice"
            )
        sides = (("linen", self.linen, linen), ("nnx", self.nnx, nnx))
        for place, value, kind in (side for side in sides if side[1] is not None):
            if isinstance(value, type) and issubclass(value, kind.Module):
                raise errors.ConfigError(
                    f"{self._of(place)}expected an instance, got the class {value.__name__}; "
                    f"call it: {value.__name__}(...)"
                )
            if not isinstance(value, kind.Module):
                raise errors.ConfigError(
                    f"{self._of(place)}expected an instance of flax.{place}.Module, got "
                    f"{_kind(value)}"
                )
        if self.linen is not None and self.linen.scope is not None:
            raise errors.ConfigError(
                f"{self._of('linen')}expected a module that is not bound to variables; return the "
                "module itself, and its variables as Pair(variables=...)"
            )
        for place, given in (("inputs", self.inputs), ("nnx_inputs", self.nnx_inputs)):
            if isinstance(given, dict) and not all(isinstance(key, str) for key in given):
                raise errors.ConfigError(f"{self._of(place)}expected names of arguments as keys")
        unknown = [mode for mode in self.modes or () if mode not in MODES]
        if unknown:
            raise errors.ConfigError(f"{self._of('modes')}expected train or eval, got {unknown[0]}")
        if self.variables is not None and not isinstance(self.variables, Mapping):
            raise errors.ConfigError(
                f"{self._of('variables')}expected {{'params': ...}}, got {_kind(self.variables)}"
            )
        step = self.next_logits
        if step is not None and (
            not callable(step) or len(inspect.signature(step).parameters) != 2
        ):
            raise errors.ConfigError(
                f"{self._of('next_logits')}expected a function of (call, tokens), got {_kind(step)}"
            )
        if self.steps < 1:
            raise errors.ConfigError(f"{self._of('steps')}expected 1 or more, got {self.steps}")

    def _of(self, place: str) -> str:
        return f"pair {self.name or _classes(self.linen, self.nnx)}: {place}: "

    @property
    def title(self) -> str:
        """What to call it."""
        return self.name or _classes(self.linen, self.nnx)

    def need(self, *sides: str) -> "Pair":
        """The pair itself, if it has these sides.

        Raises:
            ConfigError: one is None.
        """
        gone = [side for side in sides if getattr(self, side) is None]
        if gone:
            raise errors.ConfigError(
                f"{self._of(gone[0])}expected a module, got None; what is gone on one side was to "
                "be recorded before (`maxmig parity record --pair`), and is compared by `maxmig "
                "parity compare RECORDING --pair`"
            )
        return self

    def arguments(self, side: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of a side's call."""
        given = self.nnx_inputs if side == "nnx" and self.nnx_inputs is not None else self.inputs
        if isinstance(given, dict):
            return (), dict(given)
        return (tuple(given) if isinstance(given, list | tuple) else (given,)), {}


def load(spec: "str | Pair | Callable[[], Any]") -> Pair:
    """The pair that `pkg.module:function` names, found on the path and in the current folder.

    Args:
        spec: the name, or such a function, or a pair.

    Raises:
        ConfigError: there is no such function, it raises, or what it returns is not a pair.
    """
    if isinstance(spec, Pair):
        return spec
    if callable(spec):
        return _made(getattr(spec, "__name__", "pair"), spec)
    module, colon, name = spec.partition(":")
    if not (colon and module and name):
        raise errors.ConfigError(f"--pair: expected pkg.module:function, got {spec!r}")
    if "/" in module or module.endswith(".py"):
        path = module.removeprefix("./").removesuffix(".py").replace("/", ".")
        raise errors.ConfigError(
            f"--pair: expected the name of a module, got the file {module}; from the folder that "
            f"it is in: {path}:{name}"
        )
    return _made(spec, _find(module, name))


def from_result(name: str, result: Any) -> Pair:
    """A pair from what a user's function returned.

    Raises:
        ConfigError: it is no pair.
    """
    if isinstance(result, Pair):
        return dataclasses.replace(result, name=result.name or name)
    if isinstance(result, tuple | list) and len(result) == 3:
        return Pair(result[0], result[1], result[2], name=name)
    raise errors.ConfigError(
        f"pair {name}: expected {FORM} or a maxmig.parity.Pair, got {_kind(result)}"
    )


def _made(name: str, function: Callable[[], Any]) -> Pair:
    with told(f"pair {name}: the function raised", errors.ConfigError):
        result = function()
    return from_result(name, result)


def _find(module: str, name: str) -> Callable[[], Any]:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            raise errors.ConfigError(
                f"--pair {module}:{name}: no module {error.name!r} on PYTHONPATH or in {here}"
            ) from None
        raise errors.ConfigError(f"--pair {module}:{name}: {source(error)}{error}") from error
    except (Exception, SystemExit) as error:
        told_by = f"{source(error)}{type(error).__name__}: {brief(error)}"
        raise errors.ConfigError(f"--pair {module}:{name}: its import raised: {told_by}") from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            own = [n for n, v in vars(found).items() if getattr(v, "__module__", "") == module]
            names = [n for n in own if inspect.isfunction(vars(found)[n]) and n[:1] != "_"]
            raise errors.ConfigError(
                f"--pair {module}:{name}: no {part!r} in it; functions there: "
                f"{', '.join(names[:8]) or 'none'}"
            ) from None
    if not callable(found):
        raise errors.ConfigError(
            f"--pair {module}:{name}: expected a function that returns {FORM}, got {_kind(found)}"
        )
    return found


@contextlib.contextmanager
def told(what: str, kind: type[errors.MaxmigError] = errors.ConfigError) -> Iterator[None]:
    """Whatever a user's code raises becomes a typed error that names the line.

    Args:
        what: the beginning of the message.
        kind: the error to raise.
    """
    try:
        yield
    except errors.MaxmigError:
        raise
    except (Exception, SystemExit) as error:
        text = f"{what}: {source(error)}{type(error).__name__}: {brief(error)}"
        raise kind(text) from error


def source(error: BaseException) -> str:
    """`file:line: ` of the innermost frame that is a user's own; empty if there is none."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not _is_library(name):
            place = f"{name}:{trace.tb_lineno}: "
        trace = trace.tb_next
    return place


def brief(error: BaseException) -> str:
    """The first lines of an error's text."""
    text = " ".join(str(error).split())
    return text if len(text) <= 400 else f"{text[:400]}..."


def _is_library(path: str) -> bool:
    own = str(Path(__file__).parents[2])
    return path.startswith((own, "<")) or any(
        part in path for part in ("/site-packages/", "\\site-packages\\", "/lib/python")
    )


def _classes(*modules: Any) -> str:
    return "/".join(type(module).__name__ for module in modules if module is not None)


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "")
