"""The process exit codes of every `maxmig` command: one table for all of them."""

import enum


class ExitCode(enum.IntEnum):
    """What a finished `maxmig` process says to a shell, a script or a CI job."""

    PASS = 0
    DIFFERENCE = 1
    USAGE = 2
    INCONCLUSIVE = 3
    INPUT_OUTPUT = 4
    REFUSED = 5
    PENDING = 6
    INTERNAL = 70
    INTERRUPTED = 130


MEANING = {
    ExitCode.PASS: "passed, or done",
    ExitCode.DIFFERENCE: "a difference or a violated gate was found",
    ExitCode.USAGE: "usage or configuration error",
    ExitCode.INCONCLUSIVE: "inconclusive: nothing, or too little, was compared",
    ExitCode.INPUT_OUTPUT: "input or output failed: missing file, damaged checkpoint, lost write",
    ExitCode.REFUSED: "refused before anything was done: memory, disk, devices or a safety rule",
    ExitCode.PENDING: "changes are pending (only where --exit-code asks for it)",
    ExitCode.INTERNAL: "internal error, please report it",
    ExitCode.INTERRUPTED: "interrupted; the run can be resumed",
}


def table() -> str:
    """The table as indented text, for `maxmig --help`."""
    return "\n".join(f"  {code.value:>3}  {text}" for code, text in MEANING.items())
