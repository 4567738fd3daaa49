"""Mistakes of the user: one line that names the valid choices, exit status 2, no traceback."""

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any


class UsageError(Exception):
    """Bad input. Its message is one line and ends with the valid choices where there are any."""


def unknown(kind: str, name: object, choices: Iterable[object]) -> UsageError:
    """The error for ``name`` not being one of ``choices``, with the nearest choice first."""
    valid = [str(choice) for choice in choices]
    by_lower = {choice.lower(): choice for choice in valid}
    near = difflib.get_close_matches(str(name).lower(), by_lower, n=1)
    hint = f" did you mean {by_lower[near[0]]}?" if near else ""
    return UsageError(f"unknown {kind} {str(name)!r};{hint} choose from: {', '.join(valid)}")


def extra(module: str, who: str, name: str) -> Any:
    """The module, which an extra of setup.cfg brings; who: what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"{who} needs an extra: pip install 'dgbench[{name}]' ({error})") from error


def exit_on_usage_error(main: Callable[[], int | None]) -> None:
    """Run a command's ``main`` and end the process.

    A ``UsageError``, or a file that cannot be read or written, is printed as one line, status 2.
    """
    try:
        sys.exit(main() or 0)
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


class Unsuited(Exception):
    """These runs cannot train as one program; the text says why, in a few words."""
