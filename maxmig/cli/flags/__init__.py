"""`maxmig flags`: which rung runs, and how to change that on evidence; one file a verb."""

from maxmig.cli.flags import apply, graduate, lint, log, plan, rollback, show, why

NAME = "flags"
HELP = "which framework runs, and how to flip it on evidence"

VERBS = (
    show.VERB,
    why.VERB,
    lint.VERB,
    plan.VERB,
    apply.VERB,
    rollback.VERB,
    graduate.VERB,
    log.VERB,
)
