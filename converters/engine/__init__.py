"""Carries conversions out: plans routes, moves bytes, commits at once."""
