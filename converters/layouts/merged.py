"""Which collection a leaf of an NNX tree belongs to; on disk nothing but its name tells it.

NNX keeps parameters, batch statistics, caches and random state side by side in one tree; the types
of its variables are not written.
"""

from collections.abc import Iterator, Mapping

from maxmig.converters import leaves, names
from maxmig.converters.layouts.facts import is_random
from maxmig.converters.leaves import DiskPath, Hole, Leaf

CACHE = {"cached_key", "cached_value", "cache_index"}
WRAPPED = "layer_instance"  # what SpectralNorm calls its layer
STATISTICS = {"mean", "var"}


def classify(
    found: Mapping[DiskPath, Leaf | Hole],
    moments: frozenset[DiskPath],
    told: Mapping[str, str],
    problems: list[str],
) -> dict[DiskPath, str]:
    """{keys: collection} of the leaves of a model; `params` unless something tells otherwise.

    Args:
        found: the leaves by their keys in the model.
        moments: the keys that the optimizer has moments for; empty when that is not known.
        told: {model path: collection}, as a person says.
        problems: takes what cannot be told.
    """
    sections: dict[DiskPath, str] = {}
    wrappers = {keys[:place] for keys in found for place, key in enumerate(keys) if key == WRAPPED}
    for keys, leaf in found.items():
        if told and (name := names.canonical(keys)) in told:
            sections[keys] = told[name]
        elif is_random(keys, leaf):
            sections[keys] = "aux"
        elif keys[-1] in CACHE:
            sections[keys] = "cache"
        elif keys[-1] in STATISTICS and all((*keys[:-1], name) in found for name in STATISTICS):
            sections[keys] = _statistic(keys, found, moments, problems)
        elif len(keys) > 2 and keys[-2] == "batch_stats" and keys[:-2] in wrappers:
            sections[keys] = "batch_stats" if _of_norm(keys) else "params"
        else:
            sections[keys] = "params"
    return sections


def untrained(
    sections: Mapping[DiskPath, str], moments: frozenset[DiskPath], told: Mapping[str, str]
) -> Iterator[str]:
    """A note on what is taken for parameters, although the optimizer has nothing for it.

    In a tree that NNX wrote a parameter that a mask left out has a place there, without an array.

    Args:
        sections: what each leaf is taken for.
        moments: the keys that the optimizer has places for.
        told: {model path: collection}, as a person says.
    """
    found = [keys for keys, name in sections.items() if name == "params" and keys not in moments]
    lost = [path for path in map(names.canonical, found) if path not in told]
    if lost and moments:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        yield (
            f"{', '.join(lost[:4])}{more}: taken for parameters, although the optimizer has no "
            "state for them, as it has for others. Where a variable is no parameter, say so in a "
            f"mapping file: `collections: {{{lost[0]}: cache}}`"
        )


def _of_norm(keys: DiskPath) -> bool:
    """Whether these are the keys of what NNX's SpectralNorm keeps: `('kernel', 'u')`."""
    told = names.strings(str(keys[-1]))
    return told is not None and told[-1] in ("u", "sigma")


def _statistic(
    keys: DiskPath,
    found: Mapping[DiskPath, Leaf | Hole],
    moments: frozenset[DiskPath],
    problems: list[str],
) -> str:
    """A `mean` beside a `var`: batch statistics, if the module's other leaves say so."""
    if keys in moments:
        return "params"
    shape = found[keys]
    beside = [found.get((*keys[:-1], name)) for name in ("scale", "bias")]
    if moments or any(
        isinstance(leaf, Leaf) and isinstance(shape, Leaf) and leaf.shape == shape.shape
        for leaf in beside
    ):
        return "batch_stats"
    at = leaves.spell(keys)
    problems.append(
        f"{at}: batch statistics, or a parameter? There is neither a scale nor a bias beside it, "
        f"and no optimizer state; say it in a mapping file: `collections: {{{at}: batch_stats}}`"
    )
    return "params"
