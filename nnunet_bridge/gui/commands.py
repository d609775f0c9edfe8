"""The words of each command that the page can start, from the values of a form.

Only what stands here can be asked for: a name of a file never becomes an option, and
every path is one of the folders that the page may show.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.gui.roots import Roots

_WORD = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_PATHS = {"study", "folder", "inputs", "recipe", "out"}
_SWITCHES = {
    *("only_study", "update", "force", "yes", "restart", "nested"),
    *("mesh", "seg_nrrd", "dicom_seg"),
}


@dataclass(frozen=True, slots=True)
class _Option:
    """One value of a form; without a flag it is an argument."""

    name: str
    flag: str

    @classmethod
    def of(cls, word: str) -> "_Option":
        """Return the option of a flag such as ``--from-mm``, or of an argument."""
        flag = word if word.startswith("--") else ""
        return cls(word.removeprefix("--").replace("-", "_"), flag)

    def words(self, value: object, roots: Roots) -> Iterator[str]:
        """Yield the words of a value, or of each in a list."""
        if self.name in _SWITCHES:
            if value is True:
                yield self.flag
            return
        for item in value if isinstance(value, list) else [value]:
            text = str(item)
            if isinstance(item, (dict, list)) or not _WORD.fullmatch(text):
                raise UsageError(f"{self.name}: {text[:60]!r} is not a valid value.")
            text = str(roots.path(text)) if self.name in _PATHS else text
            yield f"{self.flag}={text}" if self.flag else text


_TRAINED = "--configuration --fold --model --budget"
_FORMS = {
    "demo": "folder --only-study",
    "init": "study --out --update --force",
    "check": "study --recipe",
    "convert": "study --recipe --force",
    "plan": "dataset --configuration --planner",
    "train": f"dataset {_TRAINED} --device --recipe --repeat --on --gpus --yes "
    "--restart",
    "run": f"study --recipe {_TRAINED} --device --yes",
    "select": "dataset --budget --nested",
    "compare": "dataset --out --configuration --model --budget",
    "audit": "dataset --out",
    "predict": f"dataset inputs --out {_TRAINED} --device --recipe --slices --from-mm "
    "--to-mm --region --series --image-type --clean --side --mesh --seg-nrrd "
    "--dicom-seg --force",
    "pack": f"dataset --out {_TRAINED}",
    "doctor": "",
}
COMMANDS: Mapping[str, tuple[_Option, ...]] = {
    command: tuple(map(_Option.of, words.split())) for command, words in _FORMS.items()
}


def words_of(
    command: str, values: Mapping[str, Any], roots: Roots, *, workspace: str
) -> list[str]:
    """Return the words of a command, the arguments last.

    Options that are None, empty or false are left out; arguments must be there.

    Raises
    ------
    UsageError
        If the command or one of the values is unknown, missing, or not a word.
    OutsideRoots
        If a path is outside the folders of the page.
    """
    options = {option.name: option for option in COMMANDS.get(command, ())}
    unknown = [name for name in values if name not in options]
    if command not in COMMANDS or unknown:
        raise UsageError(f"This page has no {command} {' '.join(unknown)}".rstrip())
    flags: list[str] = []
    arguments: list[str] = []
    for name, option in options.items():
        value = values.get(name)
        if value not in (None, "", False, []):
            own = flags if option.flag else arguments
            own += option.words(value, roots)
        elif not option.flag:
            raise UsageError(f"{name.capitalize()} is missing.")
    tail = ["--", *arguments] if arguments else []
    return [command, *flags, f"--workspace={workspace}", *tail]
