"""Object stores, by TensorStore's memory driver: the same calls as for gs:// and s3://."""

import jax.numpy as jnp
import pytest
from engine_cases import apart, contents, convert, renamed, save, state

from maxmig import errors
from maxmig.converters import storage
from maxmig.converters.engine import check, plan, remote, routes, run
from maxmig.converters.engine.options import Options
from maxmig.converters.leaves import Hole
from maxmig.converters.storage import kv


def as_is(path):
    return path


def found(source):
    return {
        path: leaf if isinstance(leaf, Hole) else (leaf, source.read(path).tobytes())
        for path, leaf in source.tree().items()
    }


def to(conversion, url, **flags):
    todo = plan.plan(conversion, url, Options())
    return todo, run.run(todo, url, **flags)


def test_to_a_bucket_and_back(form, tmp_path):
    save(tmp_path / "src", state(), layer_axis=1, **form)
    (tmp_path / "src" / "9" / "iter").mkdir()
    (tmp_path / "src" / "9" / "iter" / "metadata").write_text('{"shard": 1}')
    url = f"memory://bucket/{tmp_path.name}/up"
    todo, result = to(renamed(storage.open(tmp_path / "src"), as_is), url)
    assert {route.kind for route in todo.routes} == {routes.CHUNK}
    assert any("by reference is not possible: object stores" in note for note in todo.notes)
    assert result.directory == f"{url}/9"
    bucket = storage.open(url)
    assert bucket.step == 9 and found(bucket) == contents(tmp_path / "src")
    assert bucket.metadata()["maxmig"]["layout"] == "test"
    assert kv.directory(f"{url}/9").read("iter/metadata").result().value == b'{"shard": 1}'
    taken = renamed(bucket, as_is, apart(bucket.tree()))
    todo, _ = to(taken, f"{url}2")
    assert {route.kind for route in todo.routes} == {routes.CHUNK}
    save(tmp_path / "truth", state(scanned=False), **form)
    assert found(storage.open(f"{url}2")) == contents(tmp_path / "truth")
    convert(renamed(storage.open(f"{url}2"), as_is), tmp_path / "down")
    assert contents(tmp_path / "down") == contents(tmp_path / "truth")


def test_a_bucket_is_complete_or_does_not_count(tmp_path, monkeypatch):
    save(tmp_path / "src", {"a": jnp.ones(3)})
    todo = renamed(storage.open(tmp_path / "src"), as_is)
    url = f"memory://bucket/{tmp_path.name}/x"

    def fail(*args):
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(check, "check", fail)
        with pytest.raises(OSError, match="network"):
            to(todo, url)
    assert not kv.directory(url).list().result()
    with monkeypatch.context() as patch:  # as after kill -9: all is there but the marker
        patch.setattr(remote.Remote, "commit", lambda self: None)
        to(todo, url)
    with pytest.raises(errors.CheckpointError, match="there is no complete step"):
        storage.open(url)
    with pytest.raises(errors.ConvertError, match="exists already"):
        to(todo, url)
    to(todo, url, overwrite=True)
    assert storage.open(url).step == 9


def test_the_source_is_never_the_destination(tmp_path):
    save(tmp_path / "src", {"a": jnp.ones(3)})
    url = f"memory://bucket/{tmp_path.name}/y"
    to(renamed(storage.open(tmp_path / "src"), as_is), url)
    with pytest.raises(errors.ConvertError, match="the source is never changed"):
        to(renamed(storage.open(url), as_is), url, overwrite=True)


def test_urls_of_other_kinds():
    with pytest.raises(errors.ConfigError, match="expected a local path, gs://, s3://"):
        storage.open("ftp://host/x")
    assert kv.spec("gs://b/a/c") == {"driver": "gcs", "bucket": "b", "path": "a/c/"}
    assert kv.spec("s3://b/a") == {"driver": "s3", "bucket": "b", "path": "a/"}
