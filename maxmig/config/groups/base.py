"""What the groups share: the strict frozen model, the kinds of values, and how to say no."""

from collections.abc import Sequence
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field

Size = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Group(pydantic.BaseModel):
    """A group of keys that belong together; immutable, and strict about types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Contradiction(ValueError):
    """Two or more keys that are each fine and cannot be true together; `keys` names them."""

    def __init__(self, keys: Sequence[str], text: str):
        super().__init__(text)
        self.keys = tuple(keys)


def key(default: Any, description: str, **constraints: Any) -> Any:
    """A field with its default and its one-line description."""
    return Field(default=default, description=description, **constraints)
