"""Checkpoint layouts, conversion and comparison, on metadata and canonical paths alone.

- `checkpoint`: a checkpoint seen canonically; `places` and `disk` find and read it.
- `layouts`: how trees are written on disk, one small file each.
- `restack`, `skeletons`, `stacks`: layers and optimizer containers.
- `convert`, `diff`, `inspect`: what the `maxmig ckpt` verbs do.
"""
