"""Which names are stacks of layers, as data: a family with other names adds a line here.

The same stack appears in three spellings: scanned `decoder/layers/X` (one array with a layer axis),
unscanned `decoder/layers_3/X` (canonical), and `decoder/layers/3/X` (a list, as native NNX trees
write it).
"""

import re

NAMES = ("layers", "dense_layers", "moe_layers", "scanned_blocks", "layers_outside_pipeline")
REMAINDERS = ("layers_remainder",)  # hold single layers that are never stacked

_MEMBER = re.compile(rf"({'|'.join(NAMES)})_(\d+)")


def member(segment: str) -> tuple[str, int] | None:
    """`("layers", 3)` for `layers_3`; None when the segment is no layer of a stack."""
    match = _MEMBER.fullmatch(segment)
    return (match[1], int(match[2])) if match else None


def scanned(path: str) -> int | None:
    """The place of the segment that names a scanned stack in a model path, or None."""
    for place, segment in enumerate(path.split("/")):
        if segment in NAMES:
            return place
    return None


def unscanned(path: str) -> tuple[str, int] | None:
    """(path of the stacked leaf, layer) of a leaf in one unscanned layer, or None."""
    segments = path.split("/")
    for place, segment in enumerate(segments):
        if segment in NAMES or segment in REMAINDERS:
            return None  # what is numbered inside a stack is a part of one layer
        if found := member(segment):
            return "/".join([*segments[:place], found[0], *segments[place + 1 :]]), found[1]
    return None


def joined(keys: tuple[str | int, ...]) -> str:
    """A model path from disk keys; list places join their parent: `layers/3` -> `layers_3`."""
    parts: list[str] = []
    for key in keys:
        if parts and str(key).isdigit():
            parts[-1] += f"_{key}"
        else:
            parts.append(str(key))
    return "/".join(parts)


def split(path: str) -> tuple[str, ...]:
    """The inverse of `joined` for stack names: `layers_3` -> `layers`, `3`; others stay."""
    keys: list[str] = []
    for segment in path.split("/"):
        found = member(segment)
        if found and segment == f"{found[0]}_{found[1]}":
            keys.extend([found[0], str(found[1])])
        else:  # `layers_03` is no place of a list
            keys.append(segment)
    return tuple(keys)
