"""Standard output and error, which may be closed, full, or unable to show a letter.

What a command did stands, even if its result cannot be printed: `say` returns why a
text could not be printed, and the caller decides.
"""

import contextlib
import os
import sys

import rich_click as click


def prepare_streams() -> None:
    """Open what is closed, and let no letter be an error.

    A file that is opened later would otherwise get the number of a closed stream, and
    the warnings of a library would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: PTH123, SIM115 - open as long as the process
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def visible(text: str) -> str:
    r"""Return a text without characters that would move or colour a terminal.

    Examples
    --------
    >>> visible("WATER\x1b[2J FAT")
    'WATER?[2J FAT'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def say(text: str, *, err: bool = False, as_is: bool = False) -> str:
    """Print a text; return why it could not be printed, or an empty text.

    A stream that refuses once gets nothing more, so that Python does not fail at the
    end, when it would write the rest. `as_is` for JSON, which escapes by itself.
    """
    try:
        click.echo(text if as_is else visible(text), err=err)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
            os.close(nowhere)
        return getattr(error, "strerror", None) or str(error)
    return ""
