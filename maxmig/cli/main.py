"""`maxmig VERB ...`: runs a verb and turns whatever comes of it into text and an exit code.

Imports light things only: `maxmig --help` answers at once, and a verb's module is imported when
that verb is asked for.
"""

import contextlib
import logging
import os
import re
import shlex
import sys
import threading
import traceback
from collections.abc import Sequence

from maxmig import errors
from maxmig.cli import console, parser
from maxmig.cli.exit_codes import ExitCode


def run() -> None:
    """The entry point of the `maxmig` command."""
    code = main()
    if code == ExitCode.INTERRUPTED and _working():
        # Python would wait for a save in the background, however long it takes.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _working() -> bool:
    """Whether a thread is at work that Python would wait for at its end."""
    main_thread = threading.main_thread()
    return any(t is not main_thread and not t.daemon for t in threading.enumerate())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code.

    Args:
        argv: the words after `maxmig`; None takes those of this process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    settings = _settings(argv)
    console.configure(settings, json_stream=sys.stdout)
    _configure_logging(settings)
    try:
        code = _guarded(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader left (`| head`): nothing more can be told, but the result was not delivered.
        # What is still buffered goes nowhere, or the interpreter would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.INPUT_OUTPUT
    finally:
        console.configure(console.Settings())
    return int(code)


def _guarded(argv: list[str]) -> int:
    try:
        verb, args = parser.parse(argv)
        # A stray print of a library must not get into the JSON document.
        with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):
            code = int(verb.run(args) or 0)
    except SystemExit as leave:
        return _exit_code_of(leave)
    except KeyboardInterrupt:
        return _report("Interrupted", "interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        raise
    except parser.UsageError as error:
        usage = "" if console.settings().json else error.usage.rstrip()
        return _report("UsageError", str(error), error.exit_code, usage)
    except errors.MaxmigError as error:
        return _report(type(error).__name__, str(error), error.exit_code)
    except OSError as error:
        return _report(type(error).__name__, str(error), ExitCode.INPUT_OUTPUT)
    except Exception as error:
        if told := _of_the_system(error):
            return _report(type(error).__name__, told, ExitCode.INPUT_OUTPUT)
        return _report_bug(error, argv)
    if console.settings().json and not console.json_written():
        console.emit_json({"exit_code": code})
    return code


def _of_the_system(error: Exception) -> str | None:
    """What the operating system said (the disk is full, ...), which TensorStore wraps in text."""
    code = re.search(r"\[os_error_code='(\d+)'", str(error))
    if code is None:
        return None
    file = re.search(r'"([^"]+)"', str(error))
    return f"{file[1] if file else 'a file'}: {os.strerror(int(code[1]))}"


def _exit_code_of(leave: SystemExit) -> int:
    if leave.code is None or isinstance(leave.code, int):
        return int(leave.code or 0)
    return _report("SystemExit", str(leave.code), ExitCode.INTERNAL)


def _report(kind: str, message: str, code: int, details: str = "") -> int:
    if console.settings().debug:
        console.err(traceback.format_exc().rstrip())
    stopped = code == ExitCode.INTERRUPTED  # by the user: no error
    console.err(message if stopped else f"error: {message}")
    if details:
        console.err(details)
    if console.settings().json and not console.json_written():
        console.emit_json({"error": {"type": kind, "message": message, "exit_code": int(code)}})
    return int(code)


def _report_bug(error: Exception, argv: Sequence[str]) -> int:
    kind = type(error).__name__
    return _report(
        kind,
        f"internal error: {kind}: {error}",
        ExitCode.INTERNAL,
        f"command: maxmig {shlex.join(argv)}\n"
        "This is a bug in maxmig. Run it again with --debug to see where, and report it with the "
        "command,\nthe traceback and the output of `maxmig doctor --json`.",
    )


def _settings(argv: Sequence[str]) -> console.Settings:
    """The common options, read before parsing because parsing may fail; all are plain switches."""
    words = list(argv[: argv.index("--")] if "--" in argv else argv)
    return console.Settings(
        quiet="--quiet" in words,
        verbose="-v" in words or "--verbose" in words,
        color="--no-color" not in words,
        json="--json" in words,
        debug="--debug" in words or os.environ.get("MAXMIG_DEBUG", "") not in ("", "0"),
    )


class _LogHandler(logging.Handler):
    """Log lines go where messages go; the stream is looked up each time, since tests replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        console.err(self.format(record))


def _configure_logging(settings: console.Settings) -> None:
    root = logging.getLogger()
    if not any(isinstance(handler, _LogHandler) for handler in root.handlers):
        handler = _LogHandler()
        handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
        root.addHandler(handler)
    if settings.quiet:
        own, others = logging.ERROR, logging.ERROR
    elif settings.verbose:
        own, others = logging.DEBUG, logging.INFO
    else:
        own, others = logging.INFO, logging.WARNING
    root.setLevel(others)
    logging.getLogger("maxmig").setLevel(own)


if __name__ == "__main__":
    run()
