"""Pure functions on arrays: the arithmetic of every layer, written once; no Flax in here."""
