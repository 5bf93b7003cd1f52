"""Flipped bytes, short files, lost chunks: found and named, whatever the files are.

Orbax stores no checksums of numbers: a flip in a chunk either breaks its decoding (exit 4, with the
leaf and the chunk) or decodes to other numbers, which here, where nothing is recorded, only another
copy can tell (exit 1). What is neither is a byte of which no array is made; then every bit that can
be read is proved equal.
"""

import shutil

import numpy as np
import pytest
from damaging import files, flip, stored

from maxmig.converters import checkpoint

PATHS = (
    "params/decoder/layers_1/wi/kernel",
    "opt_state/0/mu/decoder/layers_0/gate/kernel",
    "params/decoder/square/kernel",
)


@pytest.mark.parametrize("path", PATHS)
def test_any_byte_of_a_chunk(path, good, copy, maxmig):
    """Every kind of place: header, content, index, end."""
    for file, begin, length in stored(good, path):
        for offset in {0, 1, 5, 11, length // 3, length // 2, length - 9, length - 2, length - 1}:
            for mask in (0x01, 0x80):
                bad = copy(good)
                flip(bad / file, begin + offset, mask)
                code, out, err = maxmig("ckpt", "verify", bad, "--against", good)
                assert code in (1, 4), (file, offset, mask)
                assert path in out, (out, err)
                lines = [line for line in out.splitlines() if line[:2] in ("* ", "! ")]
                assert len(lines) == 1


def test_every_file(good, copy, maxmig):
    """Nothing but a named finding or proved equality, for several bytes of every file."""
    found = {1: 0, 4: 0, 0: 0}
    random = np.random.default_rng(8)
    for file in files(good):
        size = (good / file).stat().st_size
        for offset in {size // 2, size - 1, int(random.integers(0, size))}:
            bad = copy(good)
            flip(bad / file, offset)
            code, out, err = maxmig("ckpt", "diff", good, bad)
            found[code] += 1
            if code == 0:
                assert out.count("\n= ") + out.startswith("= ") == 12, out
            else:
                assert "! " in out or "* " in out or err.startswith("error: ")
    assert found[4] >= 3 and sum(found.values()) >= 20


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_short_file(keep, good, copy, maxmig):
    """Of every file that holds chunks."""
    seen = {file for path in PATHS for file, *_ in stored(good, path)}
    for file in sorted(seen):
        bad = copy(good)
        raw = (bad / file).read_bytes()
        (bad / file).write_bytes(raw[: int(len(raw) * keep)])
        code, out, err = maxmig("ckpt", "verify", bad, "--against", good)
        assert code == 4
        assert "! params/" in out or "! opt_state/" in out or "damaged" in err


def test_a_lost_file(good, copy, maxmig):
    for path in PATHS:
        for file, *_ in stored(good, path):
            bad = copy(good)
            (bad / file).unlink()
            code, out, err = maxmig("ckpt", "hash", bad)
            assert (code, out) == (4, "") and ("missing" in err or "damaged" in err)


def test_a_lost_chunk_is_not_a_chunk_of_zeros(plain, copy, maxmig):
    bad = copy(plain)
    (file, *_), *_ = stored(plain, PATHS[0])
    (bad / file).unlink()
    for words in (("hash", bad), ("diff", plain, bad), ("verify", bad, "--against", plain)):
        code, out, err = maxmig("ckpt", *words)
        assert code == 4 and f"{PATHS[0]}" in out + err and "chunk [0, 0]" in out + err
    code, out, err = maxmig("ckpt", "convert", bad, bad.parent / "made", "--to", "nnx")
    assert code == 4 and PATHS[0].split("/", 1)[1] in err and not (bad.parent / "made").exists()


def test_a_conversion_of_damaged_numbers_is_refused(plain, copy, maxmig):
    """A chunk that cannot be decoded never arrives anywhere, by whatever route."""
    bad = copy(plain)
    (file, begin, length), *_ = stored(plain, PATHS[0])
    flip(bad / file, begin + length - 1)  # the checksum of the shard's index
    for options in ((), ("--scan",)):
        made = bad.parent / f"made_{len(options)}"
        code, _, err = maxmig("ckpt", "convert", bad, made, "--to", "nnx", *options)
        assert code == 4 and "wi" in err and not made.exists(), err


def test_the_result_is_damaged_after_the_conversion(good, tmp_path, maxmig):
    """Verification reads the disk; names are those of the result's own tree."""
    code, *_ = maxmig("ckpt", "convert", good, tmp_path / "made", "--to", "nnx")
    assert code == 0
    code, out, _ = maxmig("ckpt", "verify", tmp_path / "made", "--against", good)
    assert code == 0, out
    bad = tmp_path / "bad"  # a place of its own: TensorStore remembers what it read by path
    shutil.copytree(tmp_path / "made", bad)
    items = checkpoint.read(tmp_path / "made").place.items
    (file, begin, length), *_ = stored(items, PATHS[0])
    flip(bad / items.relative_to(tmp_path / "made") / file, begin + length // 2)
    code, out, _ = maxmig("ckpt", "verify", bad, "--against", good)
    assert code in (1, 4) and "wi/kernel" in out
