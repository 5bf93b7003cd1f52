"""Next-token distributions held against one another: KL, top-k, probabilities, by position."""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

TOP = (1, 2, 3, 5, 10)
_BINS = 64
_QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)


@dataclasses.dataclass(frozen=True)
class Spread:
    """Many values of one quantity.

    Attributes:
        mean: their mean.
        error: the standard error of the mean.
        quantiles: {probability: value} for 50, 90, 95, 99 and 99.9 percent.
        most: the largest.
        count: how many there are.
    """

    mean: float
    error: float
    quantiles: tuple[tuple[float, float], ...]
    most: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """Of at least one value."""
        error = float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else 0.0
        quantiles = np.quantile(values, _QUANTILES)
        pairs = tuple((q, float(v)) for q, v in zip(_QUANTILES, quantiles, strict=True))
        return cls(float(values.mean()), error, pairs, float(values.max()), int(values.size))

    def quantile(self, probability: float) -> float:
        """One of the quantiles."""
        return dict(self.quantiles)[probability]


@dataclasses.dataclass(frozen=True)
class Distribution:
    """What both sides predict for the tokens of one batch.

    Attributes:
        batch: its name.
        kl: KL(control || candidate) of each token, nats.
        shift: |p_control - p_candidate| of the true next token.
        top: (k, share of tokens whose k likeliest are the same set, standard error).
        by_position: (position in its segment, mean KL, largest KL), binned when there are many.
        rise: mean KL of the last quarter of positions over that of the first; 1 without KL.
    """

    batch: str
    kl: Spread
    shift: Spread
    top: tuple[tuple[int, float, float], ...]
    by_position: tuple[tuple[float, float, float], ...]
    rise: float


def compare(
    batch: str,
    control: np.ndarray,
    candidate: np.ndarray,
    targets: np.ndarray,
    positions: np.ndarray,
    counted: np.ndarray,
) -> Distribution | None:
    """The distribution of a batch; None if no token of it counts.

    Args:
        batch: its name.
        control, candidate: logits [B, L, V].
        targets, positions, counted: [B, L].
    """
    kl, shift, places = [], [], []
    agree: dict[int, list[np.ndarray]] = {k: [] for k in TOP if k <= control.shape[-1]}
    for row in range(control.shape[0]):  # row by row: a batch in float64 would be large
        where = counted[row] != 0
        if not where.any():
            continue
        a, b = log_softmax(control[row][where]), log_softmax(candidate[row][where])
        kl.append(divergence(a, b))
        chosen = targets[row][where][:, None]
        p, q = (np.exp(np.take_along_axis(x, chosen, axis=-1))[:, 0] for x in (a, b))
        shift.append(np.abs(p - q))
        places.append(positions[row][where])
        for k, found in agree.items():
            first, second = (np.sort(np.argpartition(-x, k - 1)[:, :k]) for x in (a, b))
            found.append((first == second).all(axis=-1))
    if not kl:
        return None
    values, where_ = np.concatenate(kl), np.concatenate(places)
    return Distribution(
        batch,
        Spread.of(values),
        Spread.of(np.concatenate(shift)),
        tuple(_share(k, np.concatenate(found)) for k, found in agree.items()),
        tuple(_by_position(where_, values)),
        _rise(where_, values),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of [..., V], in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(axis=-1, keepdims=True)))


def mean_kl(truth: np.ndarray, other: np.ndarray, counted: np.ndarray) -> float:
    """Mean KL(truth || other) over the counted tokens of [B, L, V]."""
    where = counted != 0
    a, b = log_softmax(truth[where]), log_softmax(other[where])
    return float(divergence(a, b).mean())


def divergence(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(a || b), nats, of log-probabilities [..., V]; what `a` excludes (-inf) does not count."""
    with np.errstate(invalid="ignore"):
        parts = np.where(np.isneginf(a), 0.0, np.exp(a) * (a - b))
    return np.asarray(np.maximum(0.0, parts.sum(axis=-1)))


def _share(k: int, same: np.ndarray) -> tuple[int, float, float]:
    p = float(same.mean())
    return k, p, float(np.sqrt(p * (1 - p) / same.size))


def _by_position(places: np.ndarray, kl: np.ndarray) -> Iterable[tuple[float, float, float]]:
    last = int(places.max()) + 1
    edges = np.linspace(0, last, min(last, _BINS) + 1)
    for low, high in itertools.pairwise(edges):
        here = kl[(places >= low) & (places < high)]
        if here.size:
            yield float((low + high - 1) / 2), float(here.mean()), float(here.max())


def _rise(places: np.ndarray, kl: np.ndarray) -> float:
    last = int(places.max()) + 1
    first, final = kl[places < max(1, last // 4)], kl[places >= last - max(1, last // 4)]
    if not kl.any() or not final.size or last < 4:
        return 1.0
    start = max(float(first.mean()), 1e-3 * float(kl.max()))
    return float(final.mean()) / start if start else 1.0


def summary(found: Sequence[Distribution]) -> str:
    """One line, over all batches."""
    worst = max(found, key=lambda d: d.kl.mean)
    top = min(d.top[0][1] for d in found)
    text = (
        f"mean KL {worst.kl.mean:.1e} ± {worst.kl.error:.0e} ({worst.batch}), p99.9 "
        f"{max(d.kl.quantile(0.999) for d in found):.1e}, largest "
        f"{max(d.kl.most for d in found):.1e}; same top-1 {100 * top:.2f} %"
    )
    rising = max(found, key=lambda d: d.rise)
    if rising.rise > 4:
        text += f"; grows {rising.rise:.0f}x with the position, as faults of rotary positions do"
    return text
