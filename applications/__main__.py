"""The program `implayer`: `python -m applications ...` from a clone, `implayer ...` after an installation."""

import contextlib
import signal
import sys
from collections.abc import Sequence
from typing import Any

from implayer.errors import ImplayerError

from .shared.errors import InputError, Interrupted

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line. Returns 0, 1 for a failed run, 2 for wrong usage or input, 130 when interrupted and saved.

    Without arguments it is the whole program, with those of the process: once it is over, a late Ctrl-C cannot change the
    exit code any more.
    """
    if arguments is not None:
        return _run(list(arguments))
    try:
        code = _run(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # again, while the first one was being answered
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        code = INTERRUPTED
    return code


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except InputError as error:
        return _complain(error, USAGE)
    except Interrupted:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("implayer", "applications", ""):
            raise
        return _complain(f"this needs the package `{package}`: pip install 'implayer[apps]'", USAGE)
    except ImplayerError as error:
        return _complain(error, FAILED)
    except (MemoryError, RuntimeError) as error:
        if (
            not isinstance(error, MemoryError)
            and "allocate memory" not in str(error)
            and "out of memory" not in str(error)
        ):
            raise
        return _complain(f"the memory does not suffice ({str(error).splitlines()[0]}); choose smaller sizes.", FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted; what was saved before is intact", INTERRUPTED)
    except BrokenPipeError:  # `implayer ... | head`
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return OK


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["bench"] and len(arguments) > 1 and not arguments[1].startswith("-"):
        from .bench import run_bench  # its programs have options of their own

        return run_bench(arguments[1], arguments[2:])
    command = _parse(arguments)
    return command() or OK


def _parse(arguments: list[str]) -> Any:
    """The command, as something to call."""
    from .command_line import parse

    return parse(arguments)


def _complain(message: object, code: int) -> int:
    print(f"implayer: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
