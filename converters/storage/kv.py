"""Directories and buckets as key-value stores, through TensorStore: local, gs://, s3://, memory://.

Arrays are not cached, so that memory stays bounded; the small nodes of OCDBT's index are.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters import places

_META_CACHE = 1 << 30  # never filled: an index is small; too small a cache decodes it each time


@functools.cache
def context() -> Any:
    """The TensorStore context that all share: `memory://` lives in it; arrays are not cached."""
    import tensorstore as ts

    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "file_io_concurrency": {"limit": 4},
            "data_copy_concurrency": {"limit": 2 * max(2, min(8, os.cpu_count() or 2))},
            "file_io_sync": False,
        }
    )


def is_url(path: str | Path) -> bool:
    """Whether a path names an object store and not a local file."""
    return "://" in str(path)


def join(url: str, *names: str) -> str:
    """A path below another one, local or remote."""
    return "/".join([url.rstrip("/"), *names])


def spec(url: str) -> dict[str, Any]:
    """The TensorStore spec of a directory.

    Raises:
        ConfigError: the URL is of a kind that is not known.
    """
    if not is_url(url):
        return {"driver": "file", "path": str(places.absolute(url)).rstrip("/") + "/"}
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.rstrip("/").partition("/")
    path = f"{path}/" if path else ""
    if scheme == "memory":
        return {"driver": "memory", "path": rest.rstrip("/") + "/"}
    if scheme == "gs":
        return {"driver": "gcs", "bucket": bucket, "path": path}
    if scheme == "s3":
        found = {"driver": "s3", "bucket": bucket, "path": path}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return found | ({"endpoint": endpoint} if endpoint else {})
    raise errors.ConfigError(
        f"{url}: expected a local path, gs://, s3:// or memory://, got {scheme}://"
    )


def directory(url: str) -> Any:
    """The store of a directory's files."""
    import tensorstore as ts

    return ts.KvStore.open(spec(url), context=context()).result()


def ocdbt(url: str, *, manifest: str | None = None, config: dict[str, Any] | None = None) -> Any:
    """An OCDBT database.

    Args:
        url: the directory that holds its data files.
        manifest: the directory of its manifest, where that is another one.
        config: its settings; needed to make a new one.
    """
    found = ocdbt_spec(url)
    if manifest is not None:
        found["manifest"] = spec(manifest)
    if config is not None:
        found["config"] = config
    return _open(found)


def ocdbt_spec(url: str) -> dict[str, Any]:
    """The TensorStore spec of an OCDBT database."""
    return {"driver": "ocdbt", "base": spec(url), "cache_pool": "cache_pool#meta"}


def joined(specs: Mapping[str, dict[str, Any]]) -> Any:
    """Several stores as one: {what their names begin with: the store of the rest}."""
    layers = [{"prefix": prefix, "base": base} for prefix, base in specs.items()]
    return _open({"driver": "kvstack", "layers": layers})


def _open(found: dict[str, Any]) -> Any:
    import tensorstore as ts

    # A cache of its own: a manifest in a shared one would outlive its directory's renaming.
    own = ts.Context({"cache_pool#meta": {"total_bytes_limit": _META_CACHE}}, context())
    return ts.KvStore.open(found, context=own).result()


class Value:
    """A stored value of a known size, read piece by piece: TensorStore copies each answer often.

    Args:
        store: where it is.
        key: its name there.
        size: its bytes.
        piece: how many bytes to ask for at once: each answer costs other threads' time.
    """

    def __init__(self, store: Any, key: str, size: int, piece: int = 4 << 20):
        self._store, self._key, self.piece = store, key, piece
        self._at, self._stop, self._size = 0, size, size
        self._asked: tuple[int, int, Any] | None = None  # the next bytes, on their way

    def __len__(self) -> int:
        return self._stop - self._at

    def __getitem__(self, wanted: slice) -> bytes:
        start, stop, _ = wanted.indices(len(self))
        return _value(self._ask(self._at + start, self._at + stop))

    def upto(self, size: int) -> "Value":
        """The beginning of it."""
        part = Value(self._store, self._key, self._size, self.piece)
        part._at, part._stop = self._at, self._at + min(size, len(self))
        return part

    def read(self, size: int = -1) -> bytes:
        """The next bytes; those behind them are asked for meanwhile."""
        start, stop = self._at, self._stop if size < 0 else min(self._at + size, self._stop)
        asked, self._asked = self._asked, None
        if asked is None or asked[:2] != (start, stop):
            asked = (start, stop, self._ask(start, stop))
        self._at = stop
        if stop < self._stop:
            further = min(stop + size, self._stop)
            self._asked = (stop, further, self._ask(stop, further))
        return _value(asked[2]) if start < stop else b""

    def readinto(self, room: memoryview) -> int:
        """Puts the next bytes into a buffer; tells how many."""
        data = self.read(len(room))
        room[: len(data)] = data
        return len(data)

    def ends(self) -> bool:
        """Whether there is nothing behind it."""
        return not _value(self._ask(self._size, None))

    def _ask(self, start: int, stop: int | None) -> Any:
        return self._store.read(self._key, byte_range=slice(start, stop))


def _value(future: Any) -> bytes:
    found = future.result()
    return found.value if found.state == "value" else b""
