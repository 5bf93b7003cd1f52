"""Twelve small bugs to put into one side on purpose, and one rewrite that is no bug.

The bugs are those that real ports had (Linen to NNX, and PyTorch to JAX); most pass a comparison of
logits against a threshold. None of them edits a file: a bug replaces a function of `maxmig.core`
while one side is traced, changes a setting of that side, or what it reads of its parameters. So
the lines and modules that a check names are real ones.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from maxmig.core import attention, decoder, dense, mlp, norms, part, rope
from maxmig.parity.faults.fault import Fault

Params = dict[str, Any]
Patch = Callable[[], contextlib.AbstractContextManager[None]]
LAYER = 1  # the layer that most bugs are put into, where layers are not scanned


@dataclasses.dataclass(frozen=True)
class Bug:
    """What is wrong with a side.

    Attributes:
        name: for the command line.
        title: in words.
        module: below which module it must be found, in an unscanned stack.
        files: in one of which files the side with the bug must be told to differ.
        patch: replaces functions while the side is traced.
        settings: what the side's configuration has else.
        params: what its forward pass reads in place of its parameters.
        program: where it shows: `forward`, or `gradients` alone.
        harmless: it is no bug but another way to compute the same.
    """

    name: str
    title: str
    module: str
    files: tuple[str, ...]
    patch: Patch | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    params: Callable[[Params], Params] | None = None
    program: str = "forward"
    harmless: bool = False

    def fault(self, side: str = "candidate") -> Fault:
        """The same for `maxmig.parity.run`."""
        return Fault(self.title, self.settings, None, self.params, self.patch, side)

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Replaces functions of core inside; put back when it ends."""
        return self.patch() if self.patch else contextlib.nullcontext()


@contextlib.contextmanager
def replaced(module: Any, **functions: Any) -> Iterator[None]:
    """Other functions in a module."""
    kept = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in kept.items():
            setattr(module, name, function)


@contextlib.contextmanager
def in_layer(number: int, patch: Patch) -> Iterator[None]:
    """The patch in one layer alone: the `number`-th that a forward pass calls.

    A scanned stack calls its layer's code once for all layers: the patch is in all of them then.
    """
    layer, whole = decoder.layer_forward, decoder.decoder_forward
    called, everywhere = [0], [False]

    def counted(parts: Any, cfg: Any, *args: Any) -> Any:
        index = called[0]
        called[0] += 1
        with patch() if everywhere[0] or index == number else contextlib.nullcontext():
            return layer(parts, cfg, *args)

    def restarted(parts: Any, cfg: Any, *args: Any) -> Any:
        called[0], everywhere[0] = 0, any(repeat.scan for _, repeat in cfg.stacks)
        return whole(parts, cfg, *args)

    with replaced(decoder, layer_forward=counted, decoder_forward=restarted):
        yield


def _epsilon() -> contextlib.AbstractContextManager[None]:
    original = norms._rms

    def rms(owner: Any, cfg: Any, x: Any) -> Any:
        return original(owner, dataclasses.replace(cfg, epsilon=10 * cfg.epsilon), x)

    return replaced(norms, _rms=rms)


class _LowPrecision:
    """jax.numpy whose exponential is rounded to bfloat16."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def exp(x: Any) -> Any:
        return jnp.exp(x.astype(jnp.bfloat16)).astype(x.dtype)


def _softmax() -> contextlib.AbstractContextManager[None]:
    return replaced(attention, jnp=_LowPrecision())


def _theta() -> contextlib.AbstractContextManager[None]:
    original = rope.forward

    def forward(cfg: Any, x: Any, positions: Any) -> Any:
        return original(
            dataclasses.replace(cfg, max_timescale=10.0 * cfg.max_timescale), x, positions
        )

    return replaced(rope, forward=forward)


def _partial() -> contextlib.AbstractContextManager[None]:
    original = rope.forward

    def forward(cfg: Any, x: Any, positions: Any) -> Any:
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([original(cfg, first, positions), second], axis=-1)

    return replaced(rope, forward=forward)


def _scale() -> contextlib.AbstractContextManager[None]:
    original = attention.forward

    def forward(parts: Any, cfg: Any, *args: Any) -> Any:
        factor = (cfg.scale_query or 1.0) * math.sqrt(cfg.head_dim / (cfg.head_dim + 1))
        return original(parts, dataclasses.replace(cfg, scale_query=factor), *args)

    return replaced(attention, forward=forward)


def _mask() -> contextlib.AbstractContextManager[None]:
    original = attention.mask

    def mask(cfg: Any, context: Any, keys: int) -> Any:
        start = jnp.ones((), jnp.int32)
        if context.start is not None:
            start = start + context.start
        return original(cfg, dataclasses.replace(context, start=start), keys)

    return replaced(attention, mask=mask)


def _transposed() -> contextlib.AbstractContextManager[None]:
    original = dense.forward

    def forward(owner: Any, cfg: Any, x: Any) -> Any:
        if cfg.in_axes != ("heads", "kv"):
            return original(owner, cfg, x)
        kernel = part.read(owner, "kernel", cfg.numerics.dtype)
        size = kernel.shape[-1]
        square = jnp.reshape(kernel, (size, size))
        kernel = jnp.reshape(square.T, kernel.shape)
        contract = ((x.ndim - 2, x.ndim - 1), (0, 1))
        precision = cfg.numerics.precision
        return lax.dot_general(x, kernel, (contract, ((), ())), precision=precision)

    return replaced(dense, forward=forward)


def _gelu() -> contextlib.AbstractContextManager[None]:
    return replaced(mlp, ACTIVATIONS=mlp.ACTIVATIONS | {"silu": mlp.ACTIVATIONS["gelu"]})


def _soft_cap() -> contextlib.AbstractContextManager[None]:
    original = decoder.forward

    def forward(parts: Any, cfg: Any, *args: Any) -> Any:
        return original(parts, dataclasses.replace(cfg, soft_cap=30.0), *args)

    return replaced(decoder, forward=forward)


def _dead(params: Params) -> Params:
    """One neuron of the hidden layer never fires; in a scanned stack, one of each layer."""
    path = next(p for p in params if re.search(rf"layers(_{LAYER})?/mlp/wi(_0)?/kernel$", p))
    kernel = params[path]
    alive = jnp.arange(kernel.shape[-1]) != 3
    return params | {path: kernel * jnp.broadcast_to(alive, kernel.shape).astype(kernel.dtype)}


def _swapped(params: Params) -> Params:
    """Two layers are read in the wrong order."""
    one, two = f"layers_{LAYER}/", f"layers_{LAYER + 1}/"
    if not any(one in path for path in params):
        return {
            path: _exchange(leaf) if "/layers/" in path else leaf for path, leaf in params.items()
        }
    names = {one: two, two: one}
    pattern = re.compile("|".join(names))
    return {path: params[pattern.sub(lambda m: names[m[0]], path)] for path in params}


def _exchange(leaf: Any) -> Any:
    axis = min(1, leaf.ndim - 1)
    order = [*range(leaf.shape[axis])]
    order[LAYER], order[LAYER + 1] = order[LAYER + 1], order[LAYER]
    return leaf.take(jnp.array(order), axis=axis)


@contextlib.contextmanager
def _rewritten() -> Iterator[None]:
    """Another way to write norm, attention and activation, each of which is right."""

    def rms(owner: Any, cfg: Any, x: Any) -> Any:
        wide = x.astype(jnp.float32)
        mean = jnp.sum(wide * wide, axis=-1, keepdims=True) / cfg.size
        scale = part.read(owner, "scale", cfg.numerics.dtype)
        y = (wide / jnp.sqrt(mean + cfg.epsilon)).astype(cfg.numerics.dtype)
        return jnp.reshape(scale, (1,) * (y.ndim - 1) + scale.shape) * y

    def attend(cfg: Any, q: Any, k: Any, v: Any, seen: Any) -> Any:
        batch, length, n, h = q.shape
        q = jnp.reshape(q, (batch, length, cfg.kv_heads, n // cfg.kv_heads, h))
        logits = jnp.einsum("blkgh,btkh->bkglt", q, k, precision=cfg.numerics.precision)
        if cfg.numerics.float32_logits:
            logits = logits.astype(jnp.float32)
        logits = jnp.where(seen[:, None, None], logits, jnp.asarray(-1e30, logits.dtype))
        weights = jnp.exp(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
        out = jnp.einsum("bkglt,btkh->blkgh", weights.astype(v.dtype), v)
        return jnp.reshape(out, (batch, length, n, h)).astype(cfg.numerics.dtype)

    def silu(x: Any) -> Any:
        return x / (1 + jnp.exp(-x))

    changed = mlp.ACTIVATIONS | {"silu": silu}
    with (
        replaced(norms, _rms=rms),
        replaced(attention, attend=attend),
        replaced(mlp, ACTIVATIONS=changed),
    ):
        yield


def _one_layer(patch: Patch) -> Patch:
    return lambda: in_layer(LAYER, patch)


_HERE = f"decoder/layers_{LAYER}"
_CORE, _OWN = "maxmig/core/", "maxmig/parity/faults/bugs.py"

BUGS: tuple[Bug, ...] = (
    Bug(
        "epsilon",
        "a norm's epsilon is ten times as large, 1e-5 in place of 1e-6",
        f"{_HERE}/pre_self_attention_layer_norm",
        (f"{_CORE}norms.py",),
        _one_layer(_epsilon),
    ),
    Bug(
        "low-precision-softmax",
        "attention's exponential is rounded to bfloat16",
        f"{_HERE}/self_attention",
        (_OWN,),
        _one_layer(_softmax),
    ),
    Bug(
        "rope-theta",
        "rotary wavelengths up to ten times as long",
        f"{_HERE}/self_attention",
        (f"{_CORE}rope.py",),
        _one_layer(_theta),
    ),
    Bug(
        "partial-rope",
        "half of each head is not rotated",
        f"{_HERE}/self_attention",
        (f"{_CORE}rope.py", _OWN),
        _one_layer(_partial),
    ),
    Bug(
        "attention-scale",
        "queries are scaled by 1/sqrt(H + 1)",
        f"{_HERE}/self_attention",
        (f"{_CORE}attention.py",),
        _one_layer(_scale),
    ),
    Bug(
        "mask-off-by-one",
        "each token sees the next one",
        f"{_HERE}/self_attention",
        (f"{_CORE}attention.py",),
        _one_layer(_mask),
    ),
    Bug(
        "transposed-output",
        "the kernel of attention's output is transposed",
        f"{_HERE}/self_attention/out",
        (_OWN,),
        _one_layer(_transposed),
    ),
    Bug(
        "gelu-for-silu",
        "the activation is gelu in place of silu",
        f"{_HERE}/mlp",
        (f"{_CORE}mlp.py",),
        _one_layer(_gelu),
    ),
    Bug(
        "dead-neuron",
        "one hidden neuron is always zero",
        f"{_HERE}/mlp/wi",
        (_OWN,),
        params=_dead,
    ),
    Bug(
        "swapped-layers",
        "two layers are in the wrong order",
        _HERE,
        (f"{_CORE}norms.py", f"{_CORE}part.py", f"{_CORE}dense.py"),
        params=_swapped,
    ),
    Bug(
        "soft-cap",
        "logits are capped at 30",
        "",
        (f"{_CORE}decoder.py",),
        _soft_cap,
    ),
    Bug(
        "z-loss",
        "a z-loss of 1e-4, which only gradients show",
        "",
        (f"{_CORE}losses.py",),
        settings={"z_loss_multiplier": 1e-4},
        program="gradients",
    ),
)

REWRITE = Bug(
    "rewrite",
    "norm, attention and activation written in another, equivalent way",
    "",
    (),
    _rewritten,
    harmless=True,
)


def named(name: str) -> Bug:
    """The bug, or the rewrite, of this name.

    Raises:
        KeyError: there is none.
    """
    return {bug.name: bug for bug in (*BUGS, REWRITE)}[name]
