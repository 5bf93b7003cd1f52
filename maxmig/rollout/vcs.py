"""Whether a file is under version control, and at which commit."""

import subprocess
from pathlib import Path

_SECONDS = 10


def state(path: Path) -> str | None:
    """The commit of a file that git knows, `+` behind it if the file differs from it.

    None if git does not know the file, or there is no git.
    """
    folder, name = path.resolve().parent, path.resolve().name
    if _git(folder, "ls-files", "--error-unmatch", "--", name) is None:
        return None
    commit = _git(folder, "rev-parse", "--short", "HEAD")
    if commit is None:
        return "no commit yet"
    return commit + ("+" if _git(folder, "status", "--porcelain", "--", name) else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
