"""Two checkpoints held against one another, leaf by leaf, and the fingerprint of one."""
