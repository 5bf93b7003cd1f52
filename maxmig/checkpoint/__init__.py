"""Checkpoints of a run: saving, restoring, and errors that tell what to do."""

from maxmig.checkpoint.store import Restored, Store

__all__ = ["Restored", "Store"]
