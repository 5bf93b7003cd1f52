"""Where documents come from: text, JSON lines, Parquet, ArrayRecord, or the built-in corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from maxmig.data import files, tfexample
from maxmig.errors import ConfigError, DataError

BUILTIN = "pydoc_data.topics"


def documents(kind: str, paths: Sequence[Path], field: str) -> Iterator[str]:
    """The documents of some files, in order.

    Args:
        kind: A key of `READERS`.
        paths: The files; none means the reference text that each Python carries, whatever `kind`.
        field: The JSON field, Parquet column or Example feature that holds the text.

    Raises:
        ConfigError: `kind` is unknown.
        DataError: A file is not of that kind or holds no text there; says the file and where.
    """
    if kind not in READERS:
        raise ConfigError(
            f"dataset_type: expected one of {', '.join([*READERS, 'synthetic'])}, got {kind!r}."
        )
    if not paths:
        yield from _builtin()
    for path in paths:
        yield from READERS[kind](path, field)


def text(path: Path, field: str) -> Iterator[str]:
    """A whole UTF-8 file is one document."""
    yield files.read_text(path)


def jsonl(path: Path, field: str) -> Iterator[str]:
    """One JSON object a line; blank lines are skipped."""
    empty = True
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    empty = False
                    yield _json_text(line, field, f"{path}:{number}")
    except OSError as e:
        raise files.unreadable(path, e) from e
    if empty:
        raise DataError(f"{path} is empty: expected one JSON object a line.")


def parquet(path: Path, field: str) -> Iterator[str]:
    """One row is one document; a null is an empty one."""
    import pyarrow
    from pyarrow import parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if field not in schema.names:
                raise _no_field(str(path), "column", field, schema.names)
            kind = schema.field(field).type
            if pyarrow.types.is_dictionary(kind):
                kind = kind.value_type
            if not _is_text(kind):
                raise DataError(
                    f"{path}: column {field!r} is {kind}, expected text. Set text_field."
                )
            if file.metadata.num_rows == 0:
                raise DataError(f"{path} is empty: expected at least one row.")
            row = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                    yield files.decode(value, f"{path}, row {row}") if value else ""
                    row += 1
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(
            f"{path} is not a readable Parquet file: {_first_line(e)}. Check the file, or set "
            "dataset_type to what it is."
        ) from e


def arrayrecord(path: Path, field: str) -> Iterator[str]:
    """One record is one document: UTF-8 text, or a tf.train.Example with a bytes feature."""
    import grain

    try:
        # The C++ reader aborts the process on a path that it cannot open.
        with path.open("rb"):
            pass
        source = grain.sources.ArrayRecordDataSource([str(path)])
        count = len(source)
    except (OSError, RuntimeError, ValueError) as e:
        raise DataError(
            f"{path} is not a readable ArrayRecord file: {_first_line(e)}. Check the file, or set "
            "dataset_type to what it is."
        ) from e
    if count == 0:
        raise DataError(f"{path} is empty: expected at least one record.")
    for number in range(count):
        where = f"{path}, record {number}"
        try:
            record = source[number]
        except (RuntimeError, ValueError, IndexError) as e:
            raise DataError(f"{where} cannot be read: {_first_line(e)}.") from e
        yield _record_text(record, field, where)


READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    "text": text,
    "jsonl": jsonl,
    "parquet": parquet,
    "arrayrecord": arrayrecord,
}


def _builtin() -> Iterator[str]:
    from pydoc_data import topics

    for name in sorted(topics.topics):
        yield topics.topics[name]


def _json_text(line: bytes, field: str, where: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise DataError(f"{where}: not UTF-8 text: byte {e.start} of the line ({e.reason}).") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{where}: not JSON: {e}. Expected one JSON object a line.") from e
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(value).__name__}.")
    if field not in value:
        raise _no_field(where, "field", field, list(value))
    found = value[field]
    if not isinstance(found, str):
        raise DataError(
            f"{where}: field {field!r} is {type(found).__name__}, expected text. Set text_field."
        )
    try:
        found.encode("utf-8")
    except UnicodeEncodeError as e:
        raise DataError(
            f"{where}: field {field!r} holds half of a surrogate pair at character {e.start}, "
            "which is no text. Repair the line."
        ) from e
    return found


def _record_text(record: bytes, field: str, where: str) -> str:
    try:
        found = tfexample.features(record)
    except tfexample.NotExample:
        return files.decode(record, where)
    if not found:  # An empty record, which is also an empty Example.
        return ""
    if field not in found:
        raise _no_field(where, "feature", field, list(found))
    values = found[field]
    if values is None or len(values) != 1:
        raise DataError(f"{where}: feature {field!r} is not one text. Set text_field.")
    return files.decode(values[0], where)


def _is_text(kind) -> bool:
    from pyarrow import types

    return any(
        test(kind)
        for test in (
            types.is_string,
            types.is_large_string,
            types.is_string_view,
            types.is_binary,
            types.is_large_binary,
            types.is_binary_view,
        )
    )


def _no_field(where: str, what: str, field: str, existing: Sequence[str]) -> DataError:
    return DataError(
        f"{where}: there is no {what} {field!r}; there are: {', '.join(existing) or 'none'}. Set "
        "text_field to the one that holds the text."
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
