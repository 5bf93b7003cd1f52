"""Checks of the repository that no linter makes; prints every finding and exits 1 if there is one.

Every configuration file is valid; relative links in the documents lead somewhere; no file names a
machine's own folders or a package host, and no lock file is there (a lock file pins hosts, and
`pip install` must work wherever a mirror is set up).
"""

import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# The character classes keep this file from finding itself.
_MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|opt)[/](?=[\w.])")
_HOST = re.compile(
    r"\b(?:pypi[.]org|files[.]pythonhosted[.]org|registry[.]npmjs[.]org|deb[.]debian[.]org)\b"
)
_LOCK_FILES = {"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.lock"}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".sh", ".json", ".txt", ".html", ".j2", ".cfg", ""}


def tracked(root: Path) -> list[Path]:
    """The files of the repository: those that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    ).stdout.decode()
    names = sorted(set(listed.split("\0")) - {""})
    return [path for name in names if (path := root / name).is_file()]


def check_text(root: Path, files: list[Path]) -> Iterator[str]:
    """No machine paths, no package hosts, no lock files."""
    for path in files:
        where = path.relative_to(root)
        if path.name in _LOCK_FILES:
            yield f"{where}: a lock file; version ranges belong into pyproject.toml"
        if path.suffix not in _TEXT:
            continue
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            if match := _MACHINE_PATH.search(line):
                yield f"{where}:{number}: a path of one machine: {match[0]}..."
            if match := _HOST.search(line):
                yield f"{where}:{number}: a package host: {match[0]}"


def check_links(root: Path, files: list[Path]) -> Iterator[str]:
    """Every relative link of a document leads to a file, and to a heading in it."""
    for path in files:
        if path.suffix != ".md":
            continue
        text = _FENCE.sub("", path.read_text("utf-8"))
        for match in _LINK.finditer(text):
            target, _, anchor = match[1].partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = path if not target else (path.parent / target).resolve()
            if not file.exists():
                yield f"{path.relative_to(root)}: the link {match[1]} leads nowhere"
            elif anchor and file.suffix == ".md" and anchor not in _anchors(file):
                yield f"{path.relative_to(root)}: {match[1]}: no such heading in {file.name}"


@functools.cache
def _anchors(path: Path) -> set[str]:
    text = _FENCE.sub("", path.read_text("utf-8"))
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(slugs)


def check_configs(root: Path, files: list[Path]) -> Iterator[str]:
    """Every YAML file below configs/ is a valid configuration."""
    from maxmig import config, errors

    folder = root / "configs"
    for path in files:
        if path.suffix in (".yml", ".yaml") and path.is_relative_to(folder):
            try:
                config.load(path, [])
            except errors.MaxmigError as error:
                yield f"{path.relative_to(root)}: {error}"


CHECKS: tuple[Callable[[Path, list[Path]], Iterator[str]], ...] = (
    check_text,
    check_links,
    check_configs,
)


def main(root: Path) -> int:
    """Runs all checks on the repository at `root`; the number of findings decides the exit code."""
    files = tracked(root)
    findings = [finding for check in CHECKS for finding in check(root, files)]
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
