"""Names from a user's files in messages, quoted so that they can be removed."""

import re
from collections.abc import Iterable

_QUOTED = re.compile("“[^”]*”")


def quoted(name: str) -> str:
    """Quote a name from a user's file for a message.

    Only such names stand between these quotes, so that `without_quotes` can remove
    them. Control and direction marks become ``?``.

    Examples
    --------
    >>> quoted("4_R_tibia_5A.nii.gz")
    '“4_R_tibia_5A.nii.gz”'
    """
    visible = "".join(c if c.isprintable() and c not in "“”" else "?" for c in name)
    return f"“{visible}”"


def without_quotes(message: str) -> str:
    """Return `message` without quoted names, which may identify a patient.

    Examples
    --------
    >>> without_quotes(f"{quoted('Doe, Jane')} is damaged")
    'a file is damaged'
    """
    return _QUOTED.sub("a file", message)


def without_names(message: str, names: Iterable[str]) -> str:
    """Return `message` without quoted names, and without these file and folder names.

    Examples
    --------
    >>> without_names("4_9B/a.dcm is damaged", ["4_9B"])
    'a file/a.dcm is damaged'
    """
    message = without_quotes(message)
    for name in names:
        message = message.replace(name, "a file")
    return message
