"""Everything a user can cause, as one family of exceptions.

Each class knows the exit code of the command that it ends (see `docs/reference`).
A traceback is shown for none of them, unless asked for.
"""

from __future__ import annotations

from typing import ClassVar


class BridgeError(Exception):
    """Something the user can cause and mend; the message says what, where, what to do.

    Parameters
    ----------
    message : str
        One clear sentence or a short list.
    code : str, optional
        The id of the fault in `docs/reference/faults.md`, such as ``"G03"``.
    """

    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class UsageError(BridgeError):
    """The words of the command do not fit together."""

    exit_code = 2


class RecipeError(BridgeError):
    """The recipe `dataset.toml` is not valid."""


class GeometryError(BridgeError):
    """An image or mask has no place in the patient, or not the one it should have."""


class InputError(BridgeError):
    """A file or a folder is not what the command needs."""


class EnvironmentFault(BridgeError):  # noqa: N818 - the machine is at fault
    """Disk, permission, memory, a lock held by another process, or no GPU."""

    exit_code = 5


class SecurityError(BridgeError):
    """A file was refused because it could do harm."""

    exit_code = 6


class NnUNetError(BridgeError):
    """nnU-Net's own process failed."""

    exit_code = 7


class WorkerKilled(NnUNetError):  # noqa: N818 - it is an event, not an error
    """A process of nnU-Net's was killed from outside, most likely for its memory (F11).

    Parameters
    ----------
    message : str
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, code="F11")


class Interrupted(BridgeError):  # noqa: N818 - it is an event, not an error
    """The user pressed Ctrl-C, or the process was told to end."""

    exit_code = 130
