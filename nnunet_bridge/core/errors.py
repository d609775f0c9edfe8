"""The errors that a user can cause and correct.

Each class has the exit code of the command that it ends (see `docs/reference`). The
command line shows its message without a traceback.
"""

from typing import Any, ClassVar


class BridgeError(Exception):
    """An error that the user can correct; its message says what, where and what to do.

    `code` is the id of the fault in `docs/reference/faults.md`, such as ``"G03"``.
    """

    exit_code: ClassVar[int] = 3
    reports: tuple[Any, ...] = ()  # the cases that were done before a command ended

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class UsageError(BridgeError):
    """Invalid combination of options."""

    exit_code = 2


class RecipeError(BridgeError):
    """The recipe `dataset.toml` is not valid."""


class GeometryError(BridgeError):
    """An image or mask has no position in the patient, or a wrong one."""


class InputError(BridgeError):
    """A file or a folder does not have the expected content."""


class EnvironmentFault(BridgeError):  # noqa: N818 - the machine is at fault
    """Disk, permission, memory, a lock held by another process, or no GPU."""

    exit_code = 5


class SecurityError(BridgeError):
    """A file is refused because it could do harm."""

    exit_code = 6


class NnUNetError(BridgeError):
    """nnU-Net's own process failed."""

    exit_code = 7


class WorkerKilled(NnUNetError):  # noqa: N818 - it is an event, not an error
    """A process of nnU-Net was killed from outside, probably for its memory (F11)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="F11")


class Interrupted(BridgeError):  # noqa: N818 - it is an event, not an error
    """The user pressed Ctrl-C, or the process received a signal to end."""

    exit_code = 130
