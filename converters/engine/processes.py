"""Several processes as one conversion: they find each other through JAX's own runtime."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxmig import errors
from maxmig.converters.engine import reference
from maxmig.converters.engine.target import Target
from maxmig.converters.storage import kv, ocdbt

_TIMEOUT = 24 * 3600 * 1000  # milliseconds: a process may work for hours on its share


@dataclass(frozen=True)
class Group:
    """The processes of a conversion.

    Attributes:
        index: the number of this one.
        count: how many there are.
        client: JAX's client of the coordinator; None for a process that is alone.
    """

    index: int = 0
    count: int = 1
    client: Any = None

    @property
    def first(self) -> bool:
        """Whether this process does what is done once."""
        return self.index == 0

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Tells the others when this process fails, so that none waits forever."""
        try:
            yield
        except BaseException as error:
            if self.client is not None:
                with contextlib.suppress(Exception):
                    self.client.key_value_set("maxmig/failed", f"process {self.index}: {error}")
            raise

    def meet(self, where: str) -> None:
        """Waits until all processes have come here.

        Raises:
            CheckpointError: another one has failed.
        """
        if self.client is None:
            return
        self.client.key_value_set(f"maxmig/{where}/{self.index}", "here")
        for other in range(self.count):
            self._wait(f"maxmig/{where}/{other}")

    def agree(self, what: str, value: Callable[[], str]) -> str:
        """What the first process says."""
        if self.client is None:
            return value()
        if self.first:
            self.client.key_value_set(f"maxmig/{what}", value())
        return self._wait(f"maxmig/{what}")

    def _wait(self, key: str) -> str:
        for _ in range(_TIMEOUT // 500):
            with contextlib.suppress(Exception):
                return self.client.blocking_key_value_get(key, 500)
            failed = None
            with contextlib.suppress(Exception):
                failed = self.client.blocking_key_value_get("maxmig/failed", 1)
            if failed:
                raise errors.CheckpointError(f"another process failed: {failed}")
        raise errors.CheckpointError(f"process {self.index}: the others did not come to {key!r}")

    @property
    def folder(self) -> str:
        """The folder of this process's database inside the tree."""
        return f"ocdbt.process_{self.index}_of_{self.count}"

    def merge(self, target: Target) -> None:
        """Brings the databases of all processes together, by reference."""
        if self.count > 1 and target.ocdbt:
            for tree in target.trees:
                self._merge(Path(tree.url), tree)

    def _merge(self, items: Path, target: Target) -> None:
        for index in range(self.count):
            url = str(items / Group(index, self.count).folder)
            if not Path(url).is_dir():
                continue
            part = kv.ocdbt(url)
            names = {key.decode(): key.decode() for key in part.list().result()}
            reference.copy_keys(part, target.store, names)
            with contextlib.suppress(FileNotFoundError):
                (Path(url) / "manifest.ocdbt").unlink()
            kept = {Path(file) for file in ocdbt.index(str(items)).files}
            for file in sorted(Path(url).rglob("*")):
                if file.is_file() and file.relative_to(items) not in kept:
                    file.unlink()


def current() -> Group:
    """The processes that the environment names, joined; one that is alone otherwise."""
    if not os.environ.get("JAX_COORDINATOR_ADDRESS"):
        return Group()
    from maxmig.train import distributed

    if not distributed.start():
        return Group()
    import jax
    from jax._src import distributed as runtime

    return Group(jax.process_index(), jax.process_count(), runtime.global_state.client)
