"""The route by reference: the result shares the source's data files, under new names.

In an OCDBT database keys only point into immutable data files: the files are hard-linked, a copy of
the source's manifest opens them in their new place, and the keys are copied from there into a new
database, which moves no value. Without OCDBT each value is a file, which is hard-linked itself.
Where links are impossible or not wanted, the same is done with copies of the files.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters.engine import copies, durable, pool
from maxmig.converters.engine.routes import Route
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import files, kv, orbax, orbax_tree

MANIFEST = ".source-manifest"
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}
_BATCH = 20_000
_THREADS = 4  # files that are copied at once
_USED = 0.7  # the least share of a copied file that must be wanted


def obstacle(source: Path, destination: Path) -> str:
    """Why files of the source cannot be hard-linked below a directory; empty if they can."""
    above = destination
    while not above.exists() and above != above.parent:
        above = above.parent
    if source.stat().st_dev != above.stat().st_dev:
        return "source and destination are on different file systems"
    protected = Path("/proc/sys/fs/protected_hardlinks")
    if os.geteuid() and protected.exists() and protected.read_text().strip() == "1":
        for _, entry in files.walk(source, ""):
            mine = entry.stat().st_uid == os.geteuid()
            if not mine and not os.access(entry.path, os.R_OK | os.W_OK):
                return "the files belong to another user, and this system protects hard links"
            break
    return ""


def link(source: Path, destination: Path) -> None:
    """Hard-links a file; copies it where that turns out to be impossible."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    real = source.resolve()
    try:
        os.link(real, destination)
    except FileExistsError:
        if not real.samefile(destination):
            destination.unlink()
            link(source, destination)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        copies.copy(real, destination, compare=False)


def link_all(
    names: Mapping[str, str],
    from_root: Path,
    to_root: Path,
    *,
    how: "How",
) -> list[Path]:
    """Links or copies files, {name in the result: name in the source}, several at once.

    Returns:
        The copies that were compared with their originals.

    Raises:
        Stopped: the user asked for it.
        CheckpointError: a copy reads otherwise than its original.
    """
    compared: list[Path] = []

    def one(name: str) -> None:
        if how.stopped():
            raise pool.Stopped
        origin, made = from_root / names[name], to_root / name
        if not how.copy:
            link(origin, made)
            return
        made.parent.mkdir(parents=True, exist_ok=True)
        origin = origin.resolve()
        # An earlier run's copies appeared under their names when they were whole.
        if not made.exists() or made.stat().st_size != origin.stat().st_size:
            copies.copy(origin, made, compare=how.compare)
            if how.compare:
                compared.append(made)
        if how.fsync:
            durable.hasten(made)

    if not how.copy:
        for name in names:
            one(name)
        return compared
    with futures.ThreadPoolExecutor(_THREADS) as executor:
        for future in [executor.submit(one, name) for name in names]:
            future.result()
    return compared


@dataclass(frozen=True)
class How:
    """How files are shared.

    Attributes:
        copy: copy the files that hold the values instead of linking them.
        compare: compare copies as they are made.
        fsync: send copies to the disk as they are made.
        stopped: whether the user has asked to stop; looked at between files.
    """

    copy: bool = False
    compare: bool = False
    fsync: bool = False
    stopped: Callable[[], bool] = lambda: False


def whole_files(source: orbax.Orbax, chosen: Sequence[Route]) -> bool:
    """Whether copying the source's data files as they are moves little that is not wanted."""
    if not source.told.ocdbt:
        return True
    wanted = renames(source, chosen).values()
    used: dict[str, int] = {}
    for name in wanted:
        file, _, length = source.index.values[name]
        used[file] = used.get(file, 0) + length
    root = Path(source.items)
    total = sum((root / file).stat().st_size for file in used if file)
    return total <= sum(used.values()) / _USED


def share(
    source: orbax.Orbax,
    target: Target,
    chosen: Sequence[Route],
    how: How,
) -> dict[str, str]:
    """Puts all values of some routes into the result without looking at them.

    Args:
        source: where they are.
        target: where they go.
        chosen: the routes.
        how: as links or copies.

    Returns:
        {name in the result: name in the source} of every value.

    Raises:
        CheckpointError: a value is missing in the source, or a copy reads otherwise.
    """
    wanted = renames(source, chosen)
    for _, one, other, names in _apart(source, target, wanted):
        if one.told.ocdbt:
            _share_database(one, other, names, how)
        else:
            other.compared.update(link_all(names, Path(one.items), Path(other.url), how=how))
    return wanted


Part = tuple[str, orbax.Orbax, Target, dict[str, str]]


def _apart(source: orbax.Orbax, target: Target, wanted: Mapping[str, str]) -> Iterable[Part]:
    """The same by items, where several hold a tree: (prefix in the result, item, item, names)."""
    found: dict[tuple[str, str], Part] = {}
    for name, origin in wanted.items():
        (begin, other, here), (start, one, there) = target.apart(name), source.apart(origin)
        found.setdefault((begin, start), (begin, one, other, {}))[-1][here] = there
    return found.values()


def renames(source: orbax.Orbax, chosen: Sequence[Route]) -> dict[str, str]:
    """{name in the result: name in the source} of every value that is there.

    Raises:
        CheckpointError: a value is missing that the source says it stores.
    """
    held = source.held
    found: dict[str, str] = {}
    for route in chosen:
        name = route.name
        for path, place, index in route.values():
            origin = f"{orbax_tree.name_of(path)}/{route.array.key(place)}"
            if origin in held:
                found[f"{name}/{route.array.key(index)}"] = origin
            elif source.part(path).told.stored_fill:
                raise errors.CheckpointError(
                    f"{source.url}: {'/'.join(map(str, path))}: chunk {list(place)} is missing; "
                    "the checkpoint is damaged: take another step or another copy"
                )
    return found


def _share_database(
    source: orbax.Orbax,
    target: Target,
    wanted: Mapping[str, str],
    how: How,
) -> None:
    from_root, to_root = Path(source.items), Path(target.url)
    index = source.index
    used = {file for name in wanted.values() if (file := index.values[name][0])}
    needed = {file: file for file in sorted(used | index.nodes)}
    target.compared.update(link_all(needed, from_root, to_root, how=how))
    manifest = to_root / MANIFEST
    manifest.mkdir(exist_ok=True)
    shutil.copyfile(from_root / "manifest.ocdbt", manifest / "manifest.ocdbt")
    old = kv.ocdbt(target.url, manifest=str(manifest))
    copy_keys(old, target.store, wanted)
    (manifest / "manifest.ocdbt").unlink()
    manifest.rmdir()
    target.changed()
    for file in index.nodes - target.seen.index.files:
        (to_root / file).unlink()


def copy_keys(old: Any, new: Any, wanted: Mapping[str, str]) -> None:
    """Copies keys between databases that share their data files: {new name: old name}.

    Exactly one key each: a prefix would take `a/c/10` along with `a/c/1`.
    """
    import tensorstore as ts

    pairs = list(wanted.items())
    for start in range(0, len(pairs), _BATCH):
        with ts.Transaction() as transaction:
            into = new.with_transaction(transaction)
            futures = []
            for name, origin in pairs[start : start + _BATCH]:
                here = origin.encode()
                only = ts.KvStore.KeyRange(b"", b"\0")
                futures.append(
                    (old / here.decode()).experimental_copy_range_to(into / name, source_range=only)
                )
            for future in futures:
                future.result()


def same(source: orbax.Orbax, target: Target, wanted: dict[str, str]) -> Iterable[str]:
    """The names in the result that do not point at the very bytes of the source."""
    for begin, one, other, names in _apart(source, target, wanted):
        yield from (begin + name for name in _same(one, other, names))


def _same(source: orbax.Orbax, target: Target, wanted: Mapping[str, str]) -> Iterable[str]:
    if not source.told.ocdbt:
        for name, origin in wanted.items():
            if not _identical(source, origin, target, name):
                yield name
        return
    old, new = source.index.values, target.seen.index.values
    known: dict[str, bool] = {}
    for name, origin in wanted.items():
        here = new.get(name)
        if here is None or here != old[origin]:
            yield name
            continue
        file = here[0]
        if file and file not in known:
            known[file] = _identical(source, file, target, file)
        inline = not file and _value(source.store, origin) != _value(target.store, name)
        if inline or (file and not known[file]):
            yield name


def _identical(source: orbax.Orbax, origin: str, target: Target, name: str) -> bool:
    made = Path(target.url) / name
    return made in target.compared or copies.identical(Path(source.items) / origin, made)


def _value(store: Any, name: str) -> bytes:
    return store.read(name).result().value
