"""The conversion that a result's metadata record, planned once more from a checkpoint."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from maxmig import errors

if TYPE_CHECKING:
    from maxmig.converters.checkpoint import Checkpoint
    from maxmig.converters.mapping import Planned


def recorded(result: "Checkpoint", source: "Checkpoint") -> dict[str, Any]:
    """The options of the conversion that made a checkpoint; empty if none is from such a source.

    A result of several conversions records the last one only.
    """
    told = result.own.get("converted_from")
    if not isinstance(told, Mapping) or told.get("layout") != source.layout.name:
        return {}
    options = told.get("options")
    return dict(options) if isinstance(options, Mapping) else {}


def planned(
    source: "Checkpoint", options: Mapping[str, Any], without: Collection[str] = ()
) -> "Planned":
    """Plans a recorded conversion from a checkpoint.

    Args:
        source: the checkpoint.
        options: as they are recorded.
        without: options that are left out.

    Raises:
        ConvertError: it does not fit the checkpoint, or is not understood.
    """
    from maxmig.converters import layouts, mapping
    from maxmig.converters.mapping import files

    chosen = {name: value for name, value in options.items() if name not in without}
    # What was recorded is the layout's own name, not a twin in the source's family.
    literal = {name: alias for alias, name in layouts.ALIASES.items()}
    chosen["to"] = literal.get(chosen.get("to", ""), chosen.get("to"))
    try:
        if isinstance(chosen.get("map_file"), Mapping):
            chosen["map_file"] = files.parse(chosen["map_file"], "the result's metadata")
        return mapping.planned(source, **chosen)
    except (TypeError, errors.ConfigError) as error:
        raise errors.ConvertError(
            f"the conversion recorded in the result's metadata is not understood: {error}; "
            "it was made by another version of maxmig: verify it with that one"
        ) from error
