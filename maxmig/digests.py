"""Digests of data that can be written as JSON: of configurations, plans, cards and recordings."""

import hashlib
import json
from typing import Any


def of_json(document: Any, *, allow_nan: bool = True) -> str:
    """The SHA-256 of a document, whatever the order of its keys: 64 hexadecimal digits.

    Raises:
        ValueError: it has a NaN or an infinity, and `allow_nan` is off.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=allow_nan)
    return hashlib.sha256(text.encode()).hexdigest()
