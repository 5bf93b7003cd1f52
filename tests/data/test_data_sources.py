"""Sources: what each kind of file gives, and the error for each kind of bad file."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from array_record.python import array_record_module
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from maxmig import data
from maxmig.data import files, sources, tfexample
from maxmig.errors import ConfigError, DataError

Settings = Callable[..., Any]
TEXTS = ["Über den Wolken\n", "two\r\nlines", "", "𝔘nicode \u0000 too"]


def documents(kind: str, path: Path, field: str = "text") -> list[str]:
    return list(sources.documents(kind, [path], field))


def write_parquet(path: Path, **columns: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def write_records(path: Path, records: list[bytes]) -> Path:
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


def field(number: int, content: bytes) -> bytes:
    """One length-delimited field of a protocol buffer message."""
    size, head = len(content), bytes([number << 3 | 2])
    while size >= 0x80:
        head += bytes([size & 0x7F | 0x80])
        size >>= 7
    return head + bytes([size]) + content


def example(**features: bytes) -> bytes:
    """A tf.train.Example with bytes features, and an int64 one named `id`."""
    entries = [
        field(1, field(1, name.encode()) + field(2, field(1, field(1, value))))
        for name, value in features.items()
    ]
    entries.append(field(1, field(1, b"id") + field(2, field(3, field(1, b"\x05")))))
    return field(1, b"".join(entries))


class TestGood:
    def test_text_is_one_document_a_file_byte_for_byte(self, tmp_path: Path) -> None:
        (tmp_path / "b.txt").write_bytes("é\r\n\n".encode())
        (tmp_path / "a.txt").write_bytes(b"one")
        found = files.find(str(tmp_path / "*.txt"), "train_files")
        assert list(sources.documents("text", found, "text")) == ["one", "é\r\n\n"]

    def test_jsonl(self, tmp_path: Path) -> None:
        path = tmp_path / "c.jsonl"
        lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(TEXTS)]
        path.write_bytes(b"\xef\xbb\xbf" + "\n\n \n".join(lines).encode())
        assert documents("jsonl", path) == TEXTS
        path.write_text(json.dumps({"body": "x"}) + "\r\n")
        assert documents("jsonl", path, "body") == ["x"]

    @pytest.mark.parametrize(
        "kind",
        [
            pyarrow.string(),
            pyarrow.large_string(),
            pyarrow.string_view(),
            pyarrow.binary(),
            pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        ],
        ids=str,
    )
    def test_parquet(self, tmp_path: Path, kind: pyarrow.DataType) -> None:
        texts = [text.replace("\0", "") for text in TEXTS]
        plain = pyarrow.array([*texts, None], pyarrow.string())
        path = write_parquet(tmp_path / "c.parquet", id=range(5), text=plain.cast(kind))
        assert documents("parquet", path) == [*texts, ""]

    def test_arrayrecord(self, tmp_path: Path) -> None:
        long = "long " * 100
        records = [b"plain text", example(text=long.encode(), url=b"u"), b"\n"]
        path = write_records(tmp_path / "c.array_record", records)
        assert documents("arrayrecord", path) == ["plain text", long, "\n"]
        assert documents("arrayrecord", path, "url")[1] == "u"

    def test_builtin(self) -> None:
        found = list(sources.documents("text", [], "text"))
        assert len(found) > 50 and sum(map(len, found)) > 300_000

    def test_every_kind_gives_the_same_batches(self, settings: Settings, tmp_path: Path) -> None:
        texts = [f"document {i} " * 9 for i in range(20)]
        (tmp_path / "text").mkdir()
        for i, text in enumerate(texts):
            (tmp_path / "text" / f"{i:02d}.txt").write_text(text)
        (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
        write_parquet(tmp_path / "c.parquet", text=texts)
        write_records(tmp_path / "c.arrayrecord", [text.encode() for text in texts])
        found = []
        for kind in ("text", "jsonl", "parquet", "arrayrecord"):
            names = "text/*.txt" if kind == "text" else f"c.{kind}"
            cfg = settings(dataset_type=kind, train_files=str(tmp_path / names))
            loader = data.make(cfg, global_batch=4)
            found.append((next(loader)["inputs"].tolist(), loader.state()["identity"]["corpus"]))
        assert all(one == found[0] for one in found)

    def test_maxtexts_grain_keys(self, settings: Settings, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", text=["some text " * 30])
        cfg = settings(dataset_type="grain", grain_file_type="parquet", grain_train_files=str(path))
        assert "c.parquet" in data.make(cfg, global_batch=2).summary

    def test_changed_file_is_read_again(self, settings: Settings, tmp_path: Path) -> None:
        path = tmp_path / "c.txt"
        cfg = settings(train_files=str(path), eval_split_fraction=0.0)
        for letter in "ab":
            path.write_text(letter * 500)
            os.utime(path, ns=(ord(letter), ord(letter)))
            assert set(next(data.make(cfg, global_batch=2))["inputs"].flat) == {ord(letter)}


class TestFind:
    def test_list_glob_and_order(self, tmp_path: Path) -> None:
        for name in ("b.txt", "a.txt", "deep/c.txt", "odd[1].txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("x")
        (tmp_path / "z.txt").mkdir()

        def find(*names: str) -> list[str]:
            found = files.find([str(tmp_path / name) for name in names], "train_files")
            return [path.name for path in found]

        assert find("b.txt", "a.txt") == ["b.txt", "a.txt"]
        assert find("b.txt", "?.txt") == ["b.txt", "a.txt"]
        assert find("**/*.txt") == ["a.txt", "b.txt", "c.txt", "odd[1].txt"]
        assert find("odd[1].txt") == ["odd[1].txt"]

    def test_bad(self, tmp_path: Path) -> None:
        for name, message in {
            "none.txt": r"train_files: there is no file .*none\.txt \(working folder ",
            "*.txt": r"train_files: no file matches '.*\*\.txt'",
            "": r"train_files: .* is a folder: expected files\. Give a glob such as .*/\*\.txt",
        }.items():
            with pytest.raises(DataError, match=message) as error:
                files.find(str(tmp_path / name), "train_files")
            assert error.value.exit_code == 4


# kind, content of the file, what the error says after the path
BAD = {
    "empty text": ("text", b"", "is empty: expected text"),
    "nul": ("text", b"abc\0def", "is not text: NUL byte at offset 3"),
    "latin-1": ("text", b"na\xefve", "is not UTF-8 text: byte 0xef at offset 2"),
    "cut utf-8": ("text", "café".encode()[:-1], "is not UTF-8 text: byte 0xc3 at offset 3"),
    "utf-16": ("text", "hello".encode("utf-16"), "is UTF-16: expected UTF-8"),
    "empty jsonl": ("jsonl", b"", "is empty: expected one JSON object a line"),
    "blank jsonl": ("jsonl", b"\n \n", "is empty: expected one JSON object a line"),
    "bad line": ("jsonl", b'{"text": "a"}\n\n{"text": ', ":3: not JSON: "),
    "binary jsonl": ("jsonl", b"\0\1\2\n", ":1: not JSON: "),
    "latin-1 jsonl": ("jsonl", b'{"text": "na\xefve"}', ":1: not UTF-8 text: byte 12 of the line"),
    "list": ("jsonl", b'["text"]', ":1: expected a JSON object, got list"),
    "deep": ("jsonl", b"[" * 200_000, ":1: not JSON: "),
    "no field": (
        "jsonl",
        b'{"text": "a"}\n{"body": 1, "id": 2}',
        ":2: there is no field 'text'; there are: body, id. Set text_field",
    ),
    "number": ("jsonl", b'{"text": 5}', ":1: field 'text' is int, expected text"),
    "surrogate": ("jsonl", b'{"text": "ab\\ud800"}', ":1: field 'text' holds half of a surrogate"),
    "not parquet": ("parquet", b"hello, world", "is not a readable Parquet file: "),
    "empty parquet": ("parquet", b"", "is not a readable Parquet file: "),
    "not arrayrecord": ("arrayrecord", b"hello", "is not a readable ArrayRecord file: "),
    "zeros": ("arrayrecord", b"\0" * 70_000, "is not a readable ArrayRecord file: "),
}


@pytest.mark.parametrize(("kind", "content", "message"), BAD.values(), ids=BAD)
def test_bad_file(
    settings: Settings, tmp_path: Path, kind: str, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.data"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        data.make(settings(dataset_type=kind, train_files=str(path)), global_batch=2)
    separator = "" if message.startswith(":") else " "
    assert f"{path}{separator}{message}" in str(error.value)
    assert error.value.exit_code == 4


class TestBadTables:
    def test_no_column(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", body=["x"], id=[1])
        message = "c.parquet: there is no column 'text'; there are: body, id. Set text_field"
        with pytest.raises(DataError, match=message):
            documents("parquet", path)

    def test_column_of_numbers(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", text=[1, 2])
        with pytest.raises(DataError, match="column 'text' is int64, expected text"):
            documents("parquet", path)

    def test_no_row(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", text=pyarrow.array([], pyarrow.string()))
        with pytest.raises(DataError, match="is empty: expected at least one row"):
            documents("parquet", path)

    def test_cell_that_is_no_text(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", text=[b"good", b"na\xefve"])
        with pytest.raises(DataError, match=r"c\.parquet, row 1 is not UTF-8 text: byte 0xef"):
            documents("parquet", path)

    def test_cut_file(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "c.parquet", text=["x" * 50] * 100)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match="is not a readable Parquet file"):
            documents("parquet", path)

    def test_no_record(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "c.array_record", [])
        with pytest.raises(DataError, match=r"is empty|is not a readable ArrayRecord file"):
            documents("arrayrecord", path)

    def test_record_that_is_no_text(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "c.array_record", [b"good", b"bad\0"])
        with pytest.raises(DataError, match="record 1 is not text: NUL byte at offset 3"):
            documents("arrayrecord", path)

    def test_example_without_the_feature(self, tmp_path: Path) -> None:
        path = write_records(tmp_path / "c.array_record", [example(body=b"x")])
        with pytest.raises(DataError, match="record 0: there is no feature 'text'; there are: bod"):
            documents("arrayrecord", path)
        with pytest.raises(DataError, match="record 0: feature 'id' is not one text"):
            documents("arrayrecord", path, "id")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
@pytest.mark.parametrize("kind", ["text", "jsonl", "parquet", "arrayrecord"])
def test_file_without_permission(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "secret"
    path.write_text("x")
    path.chmod(0)
    with pytest.raises(DataError, match="secret"):
        documents(kind, path)


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected one of text, jsonl, parquet, arrayrecord, syn"):
        documents("tfds", tmp_path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrayrecord"])
def test_kind_without_files(settings: Settings, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"dataset_type={kind} needs train_files, which is empty"):
        data.make(settings(dataset_type=kind), global_batch=2)


def test_smaller_than_a_batch(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text("x" * 100)
    with pytest.raises(DataError) as error:
        data.make(settings(train_files=str(path), eval_split_fraction=0.0), global_batch=8)
    assert str(error.value) == (
        f"the train data ({path}) have 100 tokens in 4 rows: less than one batch, which needs 256 "
        "tokens (8 rows of 32). Give more text, or lower per_device_batch_size or "
        "max_target_length."
    )
    assert error.value.exit_code == 4


@pytest.mark.parametrize("length", [1, 2, 3, 30])
def test_smaller_than_its_split(settings: Settings, tmp_path: Path, length: int) -> None:
    path = tmp_path / "tiny.txt"
    path.write_text("x" * length)
    with pytest.raises(DataError, match=r"less than one batch, which needs 64 tokens"):
        data.make(settings(train_files=str(path)), global_batch=2)


def test_only_empty_documents(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": ""}\n{"text": ""}\n')
    with pytest.raises(DataError, match="holds no text: each document in it is empty"):
        data.make(settings(dataset_type="jsonl", train_files=str(path)), global_batch=2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"global_batch": 6, "shard_count": 4}, "6 rows cannot be divided among 4 hosts"),
        ({"global_batch": 0}, "0 rows cannot be divided"),
        ({"global_batch": 4, "shard_index": 2, "shard_count": 2}, "expected 0 to 1, got 2"),
        ({"global_batch": 4, "split": "test"}, "expected 'train' or 'eval', got 'test'"),
    ],
)
def test_bad_arguments(settings: Settings, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        data.make(settings(), **keys)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_example_or_not(record: bytes) -> None:
    with contextlib.suppress(tfexample.NotExample):
        assert isinstance(tfexample.features(record), dict)


@given(st.text(max_size=400), st.text(min_size=1, max_size=5))
def test_examples_come_back(text: str, name: str) -> None:
    found = tfexample.features(example(**{name: text.encode()}))
    assert found == {name: [text.encode()], "id": None} or name == "id"
