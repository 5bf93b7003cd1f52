"""How far runs of one side are from one another: what no comparison of two sides can see."""

import dataclasses

import numpy as np

from maxmig.parity.findings import measure


@dataclasses.dataclass
class Noise:
    """The largest relative L2 difference of two runs, by check and path.

    Attributes:
        found: {(check, path): relative L2}; what is bit-equal is not in it.
    """

    found: dict[tuple[str, str], float] = dataclasses.field(default_factory=dict)

    def add(self, check: str, first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
        """Takes both results of one program."""
        for path, array in first.items():
            m = measure.compare("", path, array, second[path])
            if not m.exact and m.differing:
                key = (check, path)
                self.found[key] = max(self.found.get(key, 0.0), m.rel_l2)

    def of(self, check: str, path: str) -> float:
        """The noise of one array; 0 if its runs are equal bit for bit."""
        return self.found.get((check, path), 0.0)

    @property
    def source(self) -> str:
        """Where it comes from first, in words; empty if there is none."""
        if not self.found:
            return ""
        (check, path), value = next(iter(self.found.items()))
        others = f", and {len(self.found) - 1} more" if len(self.found) > 1 else ""
        return f"{check} ({path}) differ by {value:.1e} between two runs{others}"
