"""Small trees for the tests of mappings, mapping files, and what a plan writes."""

from typing import Any

import numpy as np

from maxmig.converters import mapping
from maxmig.converters.mapping import files
from maxmig.converters.mapping.files import Document


def linen_variables(**params: Any) -> dict[str, Any]:
    return {"params": params}


def numbers(*shape: int, start: int = 1) -> np.ndarray:
    return np.arange(start, start + int(np.prod(shape)), dtype=np.float32).reshape(shape)


def document(*items: dict[str, Any], **more: Any) -> Document:
    return files.parse({"rules": list(items), **more}, "here")


def targets(planned: mapping.Planned) -> set[str]:
    return {"/".join(map(str, path)) for path in planned.written}
