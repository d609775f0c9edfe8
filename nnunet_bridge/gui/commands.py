"""The words of each command that the page can start, from the values of a form.

Only what stands here can be asked for: a name of a file never becomes an option, and
every path is one of the folders that the page may show.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.gui.roots import Roots

_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_PATHS = {"study", "folder", "inputs", "recipe", "out"}
_SWITCHES = "only_study", "update", "force", "yes", "mesh", "seg_nrrd", "dicom_seg"
_TRAINED = "--configuration --model --budget"
COMMANDS = {
    "demo": "folder --only-study",
    "init": "study --out --update --force",
    "check": "study --recipe",
    "convert": "study --recipe",
    "plan": "dataset --planner",
    "train": f"dataset {_TRAINED} --fold --device --recipe --repeat --on --yes",
    "compare": f"dataset --out {_TRAINED}",
    "predict": f"dataset inputs --out {_TRAINED} --from-mm --to-mm --series "
    "--image-type --clean --side --mesh --seg-nrrd --dicom-seg",
}
"""The arguments and options of each command."""


def words_of(
    command: str, values: Mapping[str, Any], roots: Roots, *, workspace: str
) -> list[str]:
    """Return the words of a command, the arguments last.

    Options that are None, empty or false are left out; arguments must be there.

    Raises
    ------
    UsageError
        If the command or one of the values is unknown, missing, or not a word.
    SecurityError
        If a path is outside the folders of the page.
    """
    form = COMMANDS.get(command, "").split()
    known = {word.removeprefix("--").replace("-", "_"): word for word in form}
    unknown = [name for name in values if name not in known]
    if command not in COMMANDS or unknown:
        raise UsageError(f"This page has no {command} {' '.join(unknown)}".rstrip())
    flags: list[str] = []
    arguments: list[str] = []
    for name, word in known.items():
        value = values.get(name)
        if name in _SWITCHES:
            flags += [word] if value is True else []
        elif word.startswith("--"):
            flags += [f"{word}={text}" for text in _texts(name, value, roots)]
        elif value in (None, "", False, []):
            raise UsageError(f"{name.capitalize()} is missing.")
        else:
            arguments += _texts(name, value, roots)
    tail = ["--", *arguments] if arguments else []
    return [command, *flags, f"--workspace={workspace}", *tail]


def _texts(name: str, value: object, roots: Roots) -> Iterator[str]:
    """Yield the text of a value, or of each in a list; none of an empty one."""
    if value in (None, "", False):
        return
    for item in value if isinstance(value, list) else [value]:
        text = str(item)
        if isinstance(item, (dict, list)) or not _WORD.fullmatch(text):
            raise UsageError(f"{name}: {text[:60]!r} is not a valid value.")
        yield str(roots.path(text)) if name in _PATHS else text
