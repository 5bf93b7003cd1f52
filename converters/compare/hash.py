"""The fingerprint of a checkpoint: equal however its state is laid out, stacked or chunked.

Each canonical leaf, with layers apart, recurrent cells as Linen has them, numbers in names without
zeros before them and the step as int32, has the fingerprint that `tiles` defines. Where conversions
are recorded that changed names or cut arrays anew, the leaves are those from which they began. A
section's digest is BLAKE2b (32 bytes) of the lines `FINGERPRINT  PATH` of its leaves, sorted by
path; the checkpoint's is that of all leaves but random state, which is derived and which only some
layouts hold.
"""

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from maxmig import errors, trees
from maxmig.converters import axes
from maxmig.converters.checkpoint import Checkpoint
from maxmig.converters.compare import forms, pairs, views
from maxmig.converters.compare.views import View, Zeros
from maxmig.converters.leaves import Leaf
from maxmig.converters.mapping import back, normed, shaped, strictly, traced
from maxmig.converters.mapping.rules import Rule

_NUMBER = re.compile(r"_0+(\d+)(?=/|$)")
_PERSON = b"maxmig ckpt 1"
_SAID = (
    "the digest is that of the checkpoint from which the recorded conversions began, which does "
    "not tell on which axis its layers are: that was said (--from-scan-axis); --as-stored: with "
    "the layers apart"
)


@dataclass(frozen=True)
class Fingerprint:
    """The digests of a checkpoint.

    Attributes:
        leaves: of each canonical leaf, layers apart.
        kinds: shape and type of each.
        notes: what could not be taken apart, and so has another fingerprint than its layers; what
            the digest stands on beside the arrays and their names.
        undone: the rules of the record that were carried out to come to these leaves.
    """

    leaves: Mapping[str, str]
    kinds: Mapping[str, Leaf]
    notes: tuple[str, ...] = ()
    undone: tuple[Rule, ...] = ()

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
    as_stored: bool = False,
    max_memory: int = views.BUDGET,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> Fingerprint:
    """Reads a checkpoint once, in bounded memory, and tells its fingerprint.

    Args:
        checkpoint: what is read.
        only: `params`, `opt` (optimizer state and step), or `all`.
        rules: of a mapping file; the fingerprint is that of the state after them. The names are
            then those that are stored.
        as_stored: take names and arrays as they are stored, whatever conversions are recorded.
        max_memory: bytes; a few chunks are needed in any case.
        progress: called with the bytes that were read.

    Raises:
        CheckpointError: leaves cannot be read; all of them are listed.
        ConvertError: the rules do not fit, or leave out numbers that are not zero.
        InconclusiveError: there is no such leaf.
    """
    source = forms.reader(checkpoint, max_memory // 2, progress)
    found, undone = _views(checkpoint, source, rules, as_stored)
    _check_zeros(found.zeros)
    named = _plainly_numbered(found.views)
    wanted = {path: view for path, view in named.items() if forms.chosen(path, only)}
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
    kinds = {path: wanted[path].leaf for path in digests}
    notes = (*found.notes, *_undone(undone))
    notes += (*_untold(kinds, forms.layer_axis(checkpoint)), *_guessed(checkpoint))
    return Fingerprint(digests, kinds, notes, undone)


def _views(
    checkpoint: Checkpoint, source: views.Reader, rules: Sequence[Rule], as_stored: bool
) -> tuple[forms.Forms, tuple[Rule, ...]]:
    """The leaves as they are hashed, and the rules of the record that were carried out for it."""
    stored = functools.partial(forms.of, checkpoint, source, scan=False, linen=True)
    if as_stored or rules:
        return stored(rules=rules), ()
    try:
        way = back.first(checkpoint)
        found = stored(way=way)
        if way.unclear:
            found = dataclasses.replace(found, notes=(*found.notes, _SAID))
        return found, way.rules
    except (errors.ConvertError, errors.ConfigError) as error:
        found = stored()
        told = " ".join(str(error).split())[:200]
        note = (
            f"names and arrays as they are stored: the record of conversions does not fit: {told}"
        )
        return dataclasses.replace(found, notes=(*found.notes, note)), ()


def _plainly_numbered(found: Mapping[str, View]) -> dict[str, View]:
    """`layers_03` is `layers_3`, unless two leaves would then have one path."""
    plain = {path: _NUMBER.sub(r"_\1", path) for path in found}
    count = Counter(plain.values())
    return {plain[path] if count[plain[path]] == 1 else path: view for path, view in found.items()}


def _undone(rules: tuple[Rule, ...]) -> Iterator[str]:
    if rules:
        told = "; ".join(map(_spelt, rules[:3]))
        more = f" and {len(rules) - 3} more" if len(rules) > 3 else ""
        yield (
            "the digest is that of the checkpoint from which the recorded conversions began, whose "
            f"names and arrays these rules restore: {told}{more}; --as-stored: without them"
        )


def _spelt(rule: Rule) -> str:
    """A rule on one line; of a table how long it is, since it names every leaf."""
    if isinstance(rule, traced.Leaves):
        return f"{{leaves: a table of {len(rule.entries)}}}"
    return strictly.spelt(rule)


def _untold(kinds: Mapping[str, Leaf], own: int | None) -> Iterator[str]:
    """What may be laid out in another way elsewhere, and nothing here tells how.

    Args:
        kinds: shape and type of each leaf.
        own: the axis of stacks with known names.
    """
    owners = {path.partition("/")[2] for path in kinds if not path.startswith("opt_state/")}
    for at, kind in normed.in_nnx(owners).items():
        yield (
            f"{at}: {kind}: the digest is that of NNX's own form, as Linen's name of the wrapped "
            f"layer is not recorded; say it in a mapping file (--map), `- {{layer: {at}, kind: "
            f"{kind}, wraps: Dense_0, to: linen}}`, for the digest that it has in Linen"
        )
    params = {path[7:]: leaf for path, leaf in kinds.items() if path.startswith("params/")}
    heads: dict[str, int] = {}
    try:
        found = shaped.find(params, axes.roots(kinds), None, heads=heads)
    except errors.ConvertError as error:
        yield f"taken as a whole, not layer by layer: {str(error).partition(';')[0]}"
        return
    found |= {at: axis for at, axis in heads.items() if own in (None, axis)}
    for at, axis in found.items():
        yield (
            f"{at}: looks like a stack of layers, of no known name; the digest is that of the "
            "whole arrays, and another than with its layers apart; with a mapping file (--map), "
            f"`- {{unstack: {at}, to: '{at}_{{}}', axis: {axis}}}`, it is that of the layers"
        )


def _guessed(checkpoint: Checkpoint) -> Iterator[str]:
    """The layer axis, where it is only the usual one."""
    other = forms.other_axis(checkpoint)
    if other is not None:
        yield (
            f"the layers are taken apart on axis {axes.DEFAULT_AXIS}, as is usual: neither the "
            f"metadata nor the shapes tell it from axis {other}, which would give another "
            "digest"
        )


def _check_zeros(zeros: Mapping[str, View]) -> None:
    """What a rule has no place for must be zero, as in a conversion."""
    todo = [pairs.Pair(path, view, Zeros(view.leaf, view.reader)) for path, view in zeros.items()]
    for line in pairs.compare(todo):
        if line.sign != "=":
            raise errors.ConvertError(
                f"{line.path}: expected zeros, as a rule leaves it out: {line.detail}"
            )
