"""Inference: continuing text with a cache of keys and values."""

from maxmig.infer.generate import Generator

__all__ = ["Generator"]
