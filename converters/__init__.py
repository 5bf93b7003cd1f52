"""Checkpoint layouts, conversion and comparison, on metadata and canonical paths alone.

From the bytes up:

- `storage`: what lies where, read by boxes: Orbax through TensorStore, msgpack, safetensors.
- `layouts`: how trees are spelt on disk, one small file each; `checkpoint`: one, seen canonically.
- `mapping`: renames, stacks of layers (`stacks`, `axes`), optimizer state (`skeletons`).
- `transfers`, `ops`: what a plan is made of; `engine` carries it out; `convert` is both.
- `diff`, `hash`, `verify`: comparing in bounded memory, over `views`, `pairs`, `tiles`, `gaps`.
- `inspect`, `accounting`: what is told to people.
"""
