"""One measurement of `maxmig bench convert`, in a process of its own: request in, result out."""

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LAYERS = 8
_CHUNK = 64 << 20


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Does what the request says."""
    source = Path(request["source"])
    if request["what"] == "make":
        return {"payload": make(source, request["mib"], request["kind"])}
    work = _prepared(request["what"], source, Path(request["result"]))
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    copied = request["what"] in ("cp", "cp-sync")
    who = resource.RUSAGE_CHILDREN if copied else resource.RUSAGE_SELF
    return {"seconds": seconds, "peak": resource.getrusage(who).ru_maxrss << 10}


def make(source: Path, mib: int, kind: str) -> int:
    """Writes a checkpoint as Orbax does: random parameters and Adam moments; returns its bytes."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    rng = np.random.default_rng(0)
    width = math.isqrt((mib << 20) // (3 * 4 * 2 * _LAYERS))

    def weights() -> dict[str, Any]:
        both = {name: rng.random((width, _LAYERS, width), np.float32) for name in ("wi_0", "wo")}
        layers = {"mlp": {name: {"kernel": array} for name, array in both.items()}}
        decoder = {"layers": layers, "decoder_norm": {"scale": np.ones(width, np.float32)}}
        embedding = {"embedding": np.ones((64, width), np.float32)}
        return {"params": {"token_embedder": embedding, "decoder": decoder}}

    adam = {"count": np.int32(1), "mu": weights(), "nu": weights()}
    state = {"params": weights(), "opt_state": [adam, None, None], "step": np.int32(1)}

    def cut(array: Any) -> ocp.SaveArgs:
        if getattr(array, "ndim", 0) < 3:
            return ocp.SaveArgs()
        if kind == "layered":
            return ocp.SaveArgs(chunk_byte_size=array.nbytes // _LAYERS, shard_axes=(1,))
        large = kind == "large" and array.nbytes > _CHUNK
        return ocp.SaveArgs(chunk_byte_size=_CHUNK if large else None)

    with ocp.CheckpointManager(source) as manager:
        args = ocp.args.PyTreeSave(state, save_args=jax.tree.map(cut, state))
        manager.save(0, args=ocp.args.Composite(items=args))
    return sum(array.nbytes for array in jax.tree.leaves(state))


def _prepared(what: str, source: Path, result: Path) -> Callable[[], Any]:
    """The work, with everything imported that it needs."""
    if what == "cp":
        return lambda: subprocess.run(["cp", "-r", source, result], check=True)
    if what == "cp-sync":
        return lambda: _copied(source, result)
    if what == "orbax" or what.startswith("everything"):
        import jax
        import orbax.checkpoint as ocp

        jax.devices()
        return lambda: _load_everything(what, source, result, ocp, jax)
    import ml_dtypes  # noqa: F401
    import tensorstore  # noqa: F401
    import xxhash  # noqa: F401
    import zstandard  # noqa: F401

    from maxmig.checkpoint import store
    from maxmig.converters import checkpoint, convert
    from maxmig.converters.compare import parts  # noqa: F401
    from maxmig.converters.engine.options import Options
    from maxmig.converters.storage import kv

    store.versions()  # looks for installed packages, once a process
    # Starts TensorStore's threads, those for files too.
    kv.directory(str(Path(__file__).parent)).read("__init__.py").result()

    options: dict[str, Any] = {"max_memory": 512 << 20} if what == "stream-tight" else {}
    kind = what.removesuffix("-sync")
    if kind in ("rename", "unstack", "copy"):
        options |= {"link": kind != "copy", "fsync": kind != what}
    renamed = kind in ("rename", "copy")
    told: dict[str, Any] = {} if renamed or what == "cast" else {"scan": False}
    if what.endswith("cast"):
        told["dtype"] = "params=bfloat16,opt_state=bfloat16"
    to = "nnx" if renamed else "linen"

    def work() -> None:
        todo = convert.plan(checkpoint.read(source), to, **told)
        convert.run(todo, result, options=Options(**options))

    return work


def _copied(source: Path, result: Path) -> None:
    subprocess.run(["cp", "-r", source, result], check=True)
    subprocess.run(["sync", *(path for path in result.rglob("*") if path.is_file())], check=True)


def _load_everything(what: str, source: Path, result: Path, ocp: Any, jax: Any) -> None:
    """What users do today: all of it into memory, changed there, and saved."""
    import ml_dtypes
    import numpy as np

    state = _loaded(source, ocp, jax)
    if what.startswith("everything") and not what.startswith("everything-cast"):
        state = _apart(state)
    if "cast" in what:

        def narrow(array: Any) -> Any:
            return array.astype(ml_dtypes.bfloat16) if array.dtype == np.float32 else array

        state = jax.tree.map(narrow, state)
    with ocp.CheckpointManager(result) as manager:
        manager.save(0, args=ocp.args.Composite(items=ocp.args.PyTreeSave(state)))
    if what.endswith("compared"):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state, _loaded(result, ocp, jax))
        if not all(jax.tree.leaves(same)):
            raise AssertionError("the result reads otherwise than it was saved")


def _loaded(directory: Path, ocp: Any, jax: Any) -> Any:
    import numpy as np

    load = ocp.RestoreArgs(restore_type=np.ndarray)
    items = directory / "0" / "items"
    handler = ocp.PyTreeCheckpointHandler()
    metadata = handler.metadata(items).tree
    asked = ocp.args.PyTreeRestore(restore_args=jax.tree.map(lambda _: load, metadata))
    return handler.restore(items, args=asked)


def _apart(tree: Any) -> Any:
    import jax
    import numpy as np

    if not isinstance(tree, dict):
        return [_apart(item) for item in tree] if isinstance(tree, list) else tree
    found = {}
    for key, value in tree.items():
        if key != "layers":
            found[key] = _apart(value)
            continue
        for index in range(_LAYERS):
            found[f"layers_{index}"] = jax.tree.map(
                lambda array, i=index: np.ascontiguousarray(array[:, i]), value
            )
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
