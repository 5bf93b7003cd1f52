"""Looks through files and folders for all traps."""

import ast
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from maxmig import errors
from maxmig.lint import source
from maxmig.lint.rules import PROJECT_RULES, RULES
from maxmig.lint.source import Finding, Rule, Source

_SKIPPED = {"__pycache__", "node_modules", "build", "dist", "site-packages"}
UNREADABLE = "unreadable"


def check(
    paths: Iterable[str | Path], *, ignore: Collection[str] = (), select: Collection[str] = ()
) -> tuple[list[Finding], int]:
    """Finds the traps in Python files.

    Args:
        paths: files, and folders to search; hidden ones and environments are passed over.
        ignore: codes of rules not to apply.
        select: codes of the only rules to apply; all by default.

    Returns:
        The findings by file and line, and how many files were read.

    Raises:
        ConfigError: there is no such code. DataError: there is no such path, or no Python in it.
    """
    codes = {rule.code for rule in (*RULES, *PROJECT_RULES)} | {UNREADABLE}
    unknown = [code for code in (*ignore, *select) if code not in codes]
    if unknown:
        raise errors.ConfigError(f"rule {unknown[0]!r}: expected one of {', '.join(sorted(codes))}")
    found: list[Finding] = []
    sources: list[Source] = []
    count = 0
    for path in files(paths):
        count += 1
        shown = path.as_posix()
        try:
            sources.append(source.read(path, shown))
        except (SyntaxError, ValueError, UnicodeError) as error:
            line = getattr(error, "lineno", None) or 1
            text = f"cannot be parsed as Python: {getattr(error, 'msg', None) or error}"
            found.append(Finding(shown, line, 1, UNREADABLE, text, "repair it, or leave it out"))
    wanted = [c for c in codes if (not select or c in select) and c not in ignore]
    for one in sources:
        for rule in RULES:
            found += _apply(rule, one, rule.find(one))
    for rule in PROJECT_RULES:
        for one, nodes in rule.find_all(sources):
            found += _apply(rule, one, iter(nodes))
    return sorted({f for f in found if f.code in wanted}), count


def files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """All Python files of files and folders, sorted, each once.

    Raises:
        DataError: a path is not there, or there is no Python in any.
    """
    seen: dict[Path, None] = {}
    given = [Path(path) for path in paths]
    for path in given:
        if not path.exists():
            raise errors.DataError(f"{path}: no such file or folder")
        seen |= dict.fromkeys([path] if path.is_file() else sorted(_below(path)))
    if not seen:
        told = ", ".join(map(str, given))
        raise errors.DataError(f"{told}: expected Python files there, found none")
    yield from seen


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _SKIPPED:
            continue
        if path.is_dir():
            if not (path / "pyvenv.cfg").exists() and not path.is_symlink():
                yield from _below(path)
        elif path.suffix == ".py":
            yield path


def _apply(rule: Rule, one: Source, nodes: Iterator[tuple[ast.AST, str]]) -> Iterator[Finding]:
    for node, message in nodes:
        if not one.ignored(node, rule.code):
            line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
            yield Finding(one.path, line, column, rule.code, message, rule.remedy)
