"""Prints pip constraints that pin each dependency to the lowest version pyproject.toml allows."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
for dependency in project["dependencies"]:
    print(dependency.replace(">=", "=="))
