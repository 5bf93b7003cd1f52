"""Trees in containers that know no lists: state dictionaries and flat names."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxmig import errors
from maxmig.converters import layouts, leaves
from maxmig.converters.leaves import DiskPath, Hole

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint
    from maxmig.converters.layouts import Form, Layout, Written


def cut(tree: Mapping[DiskPath, object], *, own: bool) -> dict[DiskPath, DiskPath]:
    """{path: its keys}: single names are cut at their dots or slashes, nested paths stay.

    Args:
        tree: the tree.
        own: whether maxmig wrote it, which joins by dots.

    Raises:
        ConvertError: the names hold dots and slashes, so that it is not clear which separates.
    """
    names = [str(path[0]) for path in tree if len(path) == 1]
    if len(names) < len(tree) or not names:
        return {path: path for path in tree}
    dots, slashes = (any(sign in name for name in names) for sign in "./")
    if dots and slashes and not own:
        odd = next(name for name in names if "/" in name)
        raise errors.ConvertError(
            f"the names hold dots and slashes, such as {odd!r}: it is not clear which separates "
            "modules; rename them where they are written, with one of the two"
        )
    sign = "/" if slashes and not own else "."
    return {(name,): tuple(name.split(sign)) for name in names}


def form(
    found: "Form | None", target: "Layout", container: str, source: "Checkpoint"
) -> "Form | None":
    """The form for a container: state dictionaries have `{}` for what is empty, and no lists."""
    held = getattr(source.storage, "container", "orbax")
    if container == held:
        return found
    if container == "orbax":
        if found is not None and found.style is not None and found.style.empties:
            return dataclasses.replace(found, style=None, holes=None)
        return found
    others = (*getattr(target, "others", ()),)
    style = next((style for style in others if style.empties), None)
    if target.family != "linen" or style is None:
        return found
    spelt = found is not None and found.style is not None and found.style.empties
    holes = found.holes if found is not None and spelt else None
    return dataclasses.replace(found or layouts.Form(), style=style, holes=holes)


def plain(written: "Written", container: str) -> "Written":
    """A tree with string keys alone, as these containers have them.

    Raises:
        ConvertError: a name would not be cut again as it was joined.
    """
    made: Written = {tuple(str(key) for key in path): value for path, value in written.items()}
    if container == "msgpack":  # as `flax.serialization.to_state_dict` has it
        empty = (Hole.EMPTY_LIST, Hole.EMPTY_TUPLE)
        made = {at: Hole.EMPTY_DICT if hole in empty else hole for at, hole in made.items()}
    if container == "safetensors":
        odd = [path for path in made if any("." in str(key) for key in path)]
        if odd:
            raise errors.ConvertError(
                f"{leaves.spell(odd[0])}: a flat name joins keys by dots, and this key has one of "
                "its own; rename it with a mapping file"
            )
    return made
