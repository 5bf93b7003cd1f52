"""Optimizers, schedules and masks; all of them walk canonical trees."""

from maxmig.optim.build import build, learning_rate
from maxmig.optim.canonical import on_canonical_trees
from maxmig.optim.skeleton import skeleton

__all__ = ["build", "learning_rate", "on_canonical_trees", "skeleton"]
