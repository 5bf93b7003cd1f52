"""Splices on random YAML: the keys asked for change, and every other byte stays.

The judge is PyYAML's loader, which the code under test does not use to check itself.
"""

import re

import pytest
import yaml
from hypothesis import assume, event, example, given, settings
from hypothesis import strategies as st
from yaml_documents import FLAGS, block, flow

from maxmig.errors import MaxmigError, PreflightError
from maxmig.rollout import edits, splice, verify
from maxmig.rollout.document import Document

CHANGES = st.dictionaries(
    st.sampled_from(FLAGS), st.sampled_from(["true", "false", None]), min_size=1
)


def load(text: str) -> dict:
    return yaml.safe_load(text) or {}


def outside(before: bytes, after: bytes, splices: tuple[splice.Splice, ...]) -> bool:
    """Whether the bytes between the splices are the same, by walking over both texts."""
    old = new = 0
    for item in splices:
        length = item.start - old
        if before[old : item.start] != after[new : new + length]:
            return False
        if after[new + length : new + length + len(item.new.encode())] != item.new.encode():
            return False
        old, new = item.start + len(item.old.encode()), new + length + len(item.new.encode())
    return before[old:] == after[new:]


def shared(text: str, key: str) -> bool:
    """Whether the value of a key is anchored and something refers to it."""
    doc = Document.parse(text, "x.yml")
    item = doc.own(key)
    anchor = getattr(item.node, "anchor", None) if item else None
    return anchor is not None and any(alias.value == anchor for alias in doc.aliases())


def check(text: str, changes: dict[str, str | None]) -> None:
    try:
        before = load(text)
    except yaml.YAMLError:
        assume(False)
    assume(isinstance(before, dict))
    doc = Document.parse(text, "x.yml")
    expected = {key: value for key, value in before.items() if changes.get(key, "") is not None}
    expected |= {key: value == "true" for key, value in changes.items() if value is not None}
    try:
        made = edits.edit(doc, {(key,): value for key, value in changes.items()}, siblings=FLAGS)
    except PreflightError as error:
        emptied = all(changes.get(key, "") is None for key in before)
        # A kept block scalar (`|+`) would take the blank lines behind the entry that goes.
        kept = "|+" in text and None in changes.values()
        assert emptied or kept or any(shared(text, key) for key in changes), (error, text)
        event("refused")
        return
    raw = text.encode()
    after = splice.apply(raw, made)
    event("changed" if made else "nothing to do")
    assert load(after.decode()) == expected
    assert outside(raw, after, made)
    assert splice.prove(raw, after, made)
    assert splice.apply(after, splice.inverse(made)) == raw
    # Removing the last line leaves the one before without a newline; if that one is empty, or its
    # newline is a part of a block scalar, this looks like a newline at the end.
    odd = None in changes.values() and re.search(r"\n\r?\n|[|>]", text)
    if text.lstrip("\ufeff")[-1:] not in ("\n", "") and after and not odd:
        assert after[-1:] not in (b"\n", b"\r")
    assert "\r\n" not in text or after.count(b"\r\n") == after.count(b"\n")


@settings(max_examples=200, deadline=None)
@example("\ufeff", {"enable_nnx": "true"})
@given(block(), CHANGES)
def test_block_style(text: str, changes: dict[str, str | None]) -> None:
    check(text, changes)


@settings(max_examples=100, deadline=None)
@given(flow(), CHANGES)
def test_flow_style(text: str, changes: dict[str, str | None]) -> None:
    check(text, changes)


@settings(max_examples=60, deadline=None)
@given(block(), st.data())
def test_a_splice_too_many_is_noticed(text: str, data: st.DataObject) -> None:
    """The control: a change of any other character breaks the proof or the comparison."""
    try:
        doc = Document.parse(text, "x.yml")
        changes = {("pure_nnx",): "true"}
        made = edits.edit(doc, changes, siblings=FLAGS)
    except MaxmigError:
        assume(False)
    raw = text.encode()
    after = splice.apply(raw, made)
    place = data.draw(st.integers(0, len(after)))
    assume(not any(s.start <= place < s.end + 1 for s in splice.inverse(made)))
    broken = after[:place] + b"?" + after[place:]
    assert not splice.prove(raw, broken, made)
    # The value itself: verify does not take another one, nor a key that was not named.
    assert not verify.holds(doc, made, {("pure_nnx",): "false"})
    assert not made or not verify.holds(doc, made, {("steps",): "1"})


def test_overlap_and_mismatch_are_refused() -> None:
    raw = b"pure_nnx: false\n"
    with pytest.raises(ValueError, match="expected 'true'"):
        splice.apply(raw, [splice.Splice(10, "true", "x")])
    with pytest.raises(ValueError, match="overlap"):
        splice.apply(raw, [splice.Splice(10, "false", "x"), splice.Splice(12, "lse", "y")])


def test_offsets_are_bytes() -> None:
    text = "# ☃é\npure_nnx: false\n"
    made = edits.edit(Document.parse(text, "x"), {("pure_nnx",): "true"})
    assert made == (splice.Splice(len("# ☃é\npure_nnx: ".encode()), "false", "true"),)
    assert splice.apply(text.encode(), made).decode() == "# ☃é\npure_nnx: true\n"


def test_the_proof_counts_lines_and_bytes() -> None:
    raw = b"a: 1\npure_nnx: false\nb: 2\n"
    after = b"a: 1\npure_nnx: true\nb: 2\n"
    proof = splice.prove(raw, after, [splice.Splice(15, "false", "true")])
    assert proof
    assert (proof.lines, proof.remainder) == (1, len(raw) - 5)
    assert proof.text.startswith("1 line changed; all other 21 bytes are the same")
    wrong = splice.prove(raw, after.replace(b"b", b"c"), [splice.Splice(15, "false", "true")])
    assert not wrong
    assert "BUT other bytes differ" in wrong.text


def test_the_diff_shows_a_missing_newline() -> None:
    assert splice.diff(b"a: 1", b"a: 1\nb: 2", "x.yml").splitlines() == [
        "--- a/x.yml",
        "+++ b/x.yml",
        "@@ -1 +1,2 @@",
        "-a: 1",
        "\\ No newline at end of file",
        "+a: 1",
        "+b: 2",
        "\\ No newline at end of file",
    ]
