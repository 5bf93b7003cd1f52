"""Results in object stores: there is no renaming, so the commit marker is written last.

Orbax and maxmig alike take a step in a bucket for complete only when the marker is in it. Until
then the journal lies beside it: an object for each finished piece, since nothing can be appended
to, under the digest of the plan and the source.
"""

import json
from collections.abc import Iterator
from typing import Any

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.engine import documents, journal
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.recording import Found
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import files, kv, orbax

ALONE = (
    "the work is shared among processes for local destinations only; leave --processes out, one "
    "process works on several chunks at once"
)


class Remote:
    """A new step in a bucket.

    Args:
        todo: the plan.
        destination: the URL of the directory of steps.

    Raises:
        ConvertError: the result is to be a file.
    """

    def __init__(self, todo: Plan, destination: str):
        conversion = todo.conversion
        if conversion.container != "orbax":
            raise errors.ConvertError(
                f"{destination}: a {conversion.container} file is written to a local disk only; "
                "give a local path and upload it"
            )
        number = conversion.step
        self.step = destination.rstrip("/") if number is None else kv.join(destination, str(number))
        names = documents.item_names(conversion)
        one = len(names) == 1 and not conversion.items
        self.items = kv.join(self.step, names[0]) if one else self.step
        self._trees = [kv.join(self.step, name) for name in names] or [self.step]
        self._todo = todo
        self._store = kv.directory(self.step)
        self._journal = self._store / f"{journal.FOLDER}/"
        self.target = Target(self.items, use_ocdbt=todo.ocdbt, parts=conversion.items)

    def check(self, *, overwrite: bool, resume: bool = False) -> None:
        """Refuses a destination before anything is written.

        Raises:
            ConvertError: the step is there already, or lies in the source or holds it.
        """
        source = str(self._todo.conversion.storage.url).rstrip("/")
        if f"{self.step}/".startswith(f"{source}/") or f"{source}/".startswith(f"{self.step}/"):
            raise errors.ConvertError(
                f"{self.step}: expected a place apart from the source {source}; the source is "
                "never changed"
            )
        resumed = resume and self._unfinished() == self._todo.digest
        if overwrite or resumed or not (found := self.there()):
            return
        raise errors.ConvertError(f"{found}; choose another place or give --overwrite")

    def there(self) -> str:
        """What is at the destination already, in words; empty if nothing is."""
        with files.reading(self.step):
            if not self._store.list().result():
                return ""
        digest = self._unfinished()
        if digest is None:
            return f"{self.step}: exists already"
        same = digest == self._todo.digest
        told = "--resume goes on with it" if same else "it was of another plan or source"
        return f"{self.step}: exists already: a conversion that was not finished ({told})"

    def begin(self, *, overwrite: bool, resume: bool) -> set[int]:
        """Makes the place ready; the numbers of the pieces that an earlier run has finished.

        Raises:
            ConvertError: as `check`.
        """
        self.check(overwrite=overwrite, resume=resume)
        with files.reading(self.step):
            if resume and self._unfinished() == self._todo.digest:
                keys = [key.decode() for key in self._journal.list().result()]
                return {int(key) for key in keys if key.isdigit()}
            self.remove()
            self._journal.write("digest", self._todo.digest.encode()).result()
        return set()

    def finish(self, piece: int, sums: Found) -> None:
        """Notes that a piece is in the result for good, and its checksums."""
        self._journal.write(str(piece), json.dumps(journal.listed(sums)).encode()).result()

    def sums(self) -> Iterator[Found]:
        """The checksums of the finished pieces."""
        keys = [key for key in self._journal.list().result() if key.isdigit()]
        for future in [self._journal.read(key) for key in keys]:
            yield journal.mapped(json.loads(future.result().value))

    def _unfinished(self) -> str | None:
        """The digest of a conversion that was begun here and not finished; None: there is none."""
        found = self._journal.read("digest").result()
        return found.value.decode() if found.state == "value" else None

    def tell(self, made: dict[Any, Any]) -> None:
        """Writes Orbax's own files, but for the markers."""
        todo = self._todo
        told = documents.tree(
            todo.conversion, todo.routes, made, ocdbt=todo.ocdbt, version=todo.zarr
        )
        items = kv.directory(self.items)
        for name, data in told.items():
            items.write(name, data).result()
        others = self._take_over() if documents.item_names(todo.conversion) else []
        self._store.write(places.STEP_METADATA, documents.step(todo.conversion, others)).result()

    def commit(self) -> None:
        """Makes the step a complete one; from here on nothing can be resumed."""
        import tensorstore as ts

        self._journal.delete_range(ts.KvStore.KeyRange()).result()
        for url in dict.fromkeys((*self._trees, self.step)):
            name = url.rpartition("/")[2]
            text = f"Checkpoint commit was successful to {name}\n"
            kv.directory(url).write(places.MARKER, text.encode()).result()

    def remove(self) -> None:
        """Removes everything below the step."""
        import tensorstore as ts

        self._store.delete_range(ts.KvStore.KeyRange()).result()

    def _take_over(self) -> list[str]:
        source = self._todo.conversion.storage
        if not isinstance(source, orbax.Orbax):
            return []
        above = files.Files(str(source.step_dir))
        found, _ = documents.beside(self._todo.conversion)
        for name in found:
            self._store.write(name, above.read(name) or b"").result()
        return sorted({name.partition("/")[0] for name in found})
