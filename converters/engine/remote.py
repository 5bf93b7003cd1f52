"""Results in object stores: there is no renaming, so the commit marker is written last.

Orbax and maxmig alike take a step in a bucket for complete only when the marker is in it.
"""

from typing import Any

from maxmig import errors
from maxmig.converters import places
from maxmig.converters.engine import documents
from maxmig.converters.engine.plan import Plan
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import files, kv, orbax


class Remote:
    """A new step in a bucket.

    Args:
        todo: the plan.
        destination: the URL of the directory of steps.
        overwrite: remove what is there; it is gone at once.

    Raises:
        ConvertError: the step is there already, or the result is to be a file.
    """

    def __init__(self, todo: Plan, destination: str, *, overwrite: bool):
        conversion = todo.conversion
        if conversion.container != "orbax":
            raise errors.ConvertError(
                f"{destination}: a {conversion.container} file is written to a local disk only; "
                "give a local path and upload it"
            )
        number = conversion.step
        self.step = destination.rstrip("/") if number is None else kv.join(destination, str(number))
        item = documents.item_name(conversion)
        self.items = self.step if number is None else kv.join(self.step, item)
        self._todo = todo
        self._store = kv.directory(self.step)
        source = str(conversion.storage.url).rstrip("/")
        if f"{self.step}/".startswith(f"{source}/") or f"{source}/".startswith(f"{self.step}/"):
            raise errors.ConvertError(
                f"{self.step}: expected a place apart from the source {source}; the source is "
                "never changed"
            )
        if self._store.list().result():
            if not overwrite:
                raise errors.ConvertError(
                    f"{self.step}: exists already; choose another place or give --overwrite"
                )
            self.remove()
        self.target = Target(self.items, use_ocdbt=todo.ocdbt)

    def tell(self, made: dict[Any, Any]) -> None:
        """Writes Orbax's own files, but for the markers."""
        todo = self._todo
        told = documents.tree(
            todo.conversion, todo.routes, made, ocdbt=todo.ocdbt, version=todo.zarr
        )
        items = kv.directory(self.items)
        for name, data in told.items():
            items.write(name, data).result()
        alone = self.step == self.items
        others = self._take_over() if not alone else []
        self._store.write(
            places.STEP_METADATA, documents.step(todo.conversion, others, alone=alone)
        ).result()

    def commit(self) -> None:
        """Makes the step a complete one."""
        for url in dict.fromkeys((self.items, self.step)):
            name = url.rpartition("/")[2]
            text = f"Checkpoint commit was successful to {name}\n"
            kv.directory(url).write(places.MARKER, text.encode()).result()

    def remove(self) -> None:
        """Removes everything below the step."""
        import tensorstore as ts

        self._store.delete_range(ts.KvStore.KeyRange()).result()

    def _take_over(self) -> list[str]:
        source = self._todo.conversion.storage
        if not isinstance(source, orbax.Orbax) or source.step_dir in (None, source.items):
            return []
        above = files.Files(str(source.step_dir))
        found, _ = documents.beside(self._todo.conversion)
        for name in found:
            self._store.write(name, above.read(name) or b"").result()
        return sorted({name.partition("/")[0] for name in found})
