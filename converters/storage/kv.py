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
