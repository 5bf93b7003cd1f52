"""The fingerprint of a checkpoint: equal however its state is laid out, stacked or chunked.

Each canonical leaf, with layers apart, recurrent cells as Linen has them and the step as int32, has
the fingerprint that `tiles` defines. A section's digest is BLAKE2b (32 bytes) of the lines
`FINGERPRINT  PATH` of its leaves, sorted by path; the checkpoint's is that of all leaves but random
state, which is derived and which only some layouts hold.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from maxmig import errors, trees
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import forms, pairs, views
from maxmig.converters.compare.views import View, Zeros
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping.rules import Rule

_PERSON = b"maxmig ckpt 1"


@dataclass(frozen=True)
class Fingerprint:
    """The digests of a checkpoint.

    Attributes:
        leaves: of each canonical leaf, layers apart.
        kinds: shape and type of each.
        notes: what could not be taken apart, and so has another fingerprint than its layers.
    """

    leaves: Mapping[str, str]
    kinds: Mapping[str, Leaf]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the state: of all leaves but random state, if there are others."""
        state = [path for path in self.leaves if forms.section(path) != forms.RANDOM]
        return self._of(state or list(self.leaves))

    @property
    def sections(self) -> dict[str, str]:
        """The digest of each section."""
        names = dict.fromkeys(forms.section(path) for path in self.leaves)
        return {
            name: self._of([path for path in self.leaves if forms.section(path) == name])
            for name in names
        }

    def _of(self, paths: list[str]) -> str:
        told = hashlib.blake2b(digest_size=32, person=_PERSON)
        for path in sorted(paths):
            told.update(f"{self.leaves[path]}  {path}\n".encode())
        return told.hexdigest()


def fingerprint(
    checkpoint: Checkpoint,
    *,
    only: str = "all",
    rules: Sequence[Rule] = (),
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Fingerprint:
    """Reads a checkpoint once, in bounded memory, and tells its fingerprint.

    Args:
        checkpoint: what is read.
        only: `params`, `opt` (optimizer state and step), or `all`.
        rules: of a mapping file; the fingerprint is that of the state after them.
        max_memory: bytes; a few chunks are needed in any case.
        progress: called with the bytes that were read.

    Raises:
        CheckpointError: leaves cannot be read; all of them are listed.
        ConvertError: the rules do not fit, or leave out numbers that are not zero.
        InconclusiveError: there is no such leaf.
    """
    source = forms.reader(checkpoint, max_memory // 2, progress)
    found = forms.of(checkpoint, source, scan=False, rules=rules, linen=True)
    _check_zeros(found.zeros)
    wanted = {path: view for path, view in found.views.items() if forms.chosen(path, only)}
    if not wanted:
        raise errors.InconclusiveError(
            f"{checkpoint.storage.url}: there is no leaf of {only!r} to take a fingerprint of"
        )
    failed: list[str] = []
    prints = pairs.fingerprints(wanted, lambda path, error: failed.append(f"{path}: {error}"))
    if failed:
        raise errors.CheckpointError(
            f"{len(failed)} of {len(wanted)} leaves cannot be read:\n  " + "\n  ".join(failed)
        )
    digests = {path: prints[path] or "" for path in trees.sort(prints)}
    return Fingerprint(digests, {path: wanted[path].leaf for path in digests}, found.notes)


def _check_zeros(zeros: Mapping[str, View]) -> None:
    """What a rule has no place for must be zero, as in a conversion."""
    todo = [pairs.Pair(path, view, Zeros(view.leaf, view.reader)) for path, view in zeros.items()]
    for line in pairs.compare(todo):
        if line.sign != "=":
            raise errors.ConvertError(
                f"{line.path}: expected zeros, as a rule leaves it out: {line.detail}"
            )
