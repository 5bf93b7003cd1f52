"""`maxmig ckpt`: inspect, convert and compare checkpoints; one file a verb."""

from maxmig.cli.ckpt import convert, diff, explain, hash, inspect, map, verify

NAME = "ckpt"
HELP = "inspect, convert and compare checkpoints"

VERBS = (
    inspect.VERB,
    convert.VERB,
    diff.VERB,
    verify.VERB,
    hash.VERB,
    map.VERB,
    explain.VERB,
)
