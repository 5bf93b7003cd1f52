"""The documentation says what the code says."""

from pathlib import Path

import pytest

from maxmig.config import document, flags


def test_reference_is_fresh(root: Path) -> None:
    written = (root / "docs" / "configuration.md").read_text("utf-8")
    assert written == document.text(), (
        "docs/configuration.md is out of date: run "
        "`python -m maxmig.config.document docs/configuration.md`"
    )


def test_main(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document.main([])
    assert capsys.readouterr().out == document.text()
    document.main([str(tmp_path / "x.md")])
    assert (tmp_path / "x.md").read_text("utf-8") == document.text()


def test_page_of_the_flags(root: Path) -> None:
    page = (root / "docs" / "flags.md").read_text("utf-8")
    for text in flags.REFUSALS.values():
        assert f"> {text}\n" in page
    for stage in flags.LADDER:
        values = stage.flags
        row = [
            str(stage.order + 1),
            f"`{stage.value}`",
            *(str(v).lower() for v in (values.enable_nnx, values.pure_nnx)),
            str(values.pure_nnx_decoder).lower(),
            stage.runs,
        ]
        assert f"| {' | '.join(row)} |" in page
