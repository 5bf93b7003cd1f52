"""Where the bytes of a checkpoint are, and how they are damaged."""

from pathlib import Path

from maxmig.converters import checkpoint
from maxmig.converters.storage.orbax_tree import name_of


def files(place: Path) -> list[Path]:
    return sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())


def flip(file: Path, offset: int, mask: int = 0x10) -> None:
    """Flips bits of a byte in place: all links to the file see it."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        byte = opened.read(1)[0]
        opened.seek(offset)
        opened.write(bytes([byte ^ mask]))


def stored(place: Path, path: str) -> list[tuple[Path, int, int]]:
    """Where the encoded chunks of a leaf lie: (file, first byte, length)."""
    found = checkpoint.read(place)
    name = name_of(found.places[path])
    store = found.storage.store
    keys = [key.decode() for key in store.list().result()]
    chunks = [key for key in keys if key.startswith(f"{name}/") and not key.endswith(("y", "n"))]
    assert chunks, keys
    places = []
    for key in chunks:
        value = store.read(key).result().value
        for file in files(place):
            at = (place / file).read_bytes().find(value)
            if at >= 0:
                places.append((file, at, len(value)))
                break
    assert len(places) == len(chunks)
    return places
