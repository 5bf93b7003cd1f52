"""The whole story on real text: train under Linen, convert, prove, flip, go on under NNX."""

from maxmig.demo.story import Outcome, tell

__all__ = ["Outcome", "tell"]
