"""The rollout: flip the flags of configuration files on evidence, and take it back exactly.

From the text up: `document` parses and keeps every character's place, `places` finds where to cut,
`edits` makes the cuts and `verify` compares the trees, `splice` applies and proves. `era`, `choice`
and `effective` tell whose file it is and which values are in force, `dangers` what can go wrong.
The verbs are `plan`, `apply` (with `evidence`), `rollback`, `graduate` and `lint`; `execute` writes
files and `ledger` for them.
"""
