"""How a top-level key that names no section of the framework's is spelt as one.

A canonical path begins with its section, and `aux` is that of NNX's random state. A user's own
field of this name is `aux%`, so that rules and reports tell the two apart.
"""

_TAKEN = "aux"


def section(key: object) -> str:
    """The section of a user's top-level key."""
    name = str(key)
    return f"{name}%" if name.rstrip("%") == _TAKEN else name


def key(name: str) -> str:
    """The inverse of `section`."""
    return name[:-1] if name.endswith("%") and name.rstrip("%") == _TAKEN else name
