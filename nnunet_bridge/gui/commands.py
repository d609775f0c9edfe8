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


@dataclass(frozen=True, slots=True)
class _Option:
    """One value of a form; without a flag it is an argument."""

    name: str
    flag: str = ""
    kind: str = "word"  # "word", "path" or "flag"
    many: bool = False

    def words(self, value: object, roots: Roots) -> Iterator[str]:
        """Yield the words of a value."""
        if self.kind == "flag":
            if value is True:
                yield self.flag
            return
        for item in value if self.many and isinstance(value, list) else [value]:
            text = str(item)
            if isinstance(item, (dict, list)) or not _WORD.fullmatch(text):
                raise UsageError(f"{self.name}: {text[:60]!r} is not a valid value.")
            text = str(roots.path(text)) if self.kind == "path" else text
            yield f"{self.flag}={text}" if self.flag else text


def _words(**flags: str) -> tuple[_Option, ...]:
    return tuple(_Option(name, flag) for name, flag in flags.items())


def _flags(*flags: str) -> tuple[_Option, ...]:
    return tuple(_Option(flag[2:].replace("-", "_"), flag, "flag") for flag in flags)


_STUDY = _Option("study", kind="path")
_DATASET = _Option("dataset")
_RECIPE = _Option("recipe", "--recipe", "path")
_OUT = _Option("out", "--out", "path")
_CONFIGURATION = _Option("configuration", "--configuration", many=True)
_FOLD = _Option("fold", "--fold", many=True)
_MODEL = _words(model="--model", budget="--budget")
_DEVICE = _words(device="--device")

COMMANDS: Mapping[str, tuple[_Option, ...]] = {
    "demo": (_Option("folder", kind="path"), *_flags("--only-study")),
    "init": (_STUDY, _OUT, *_flags("--update", "--force")),
    "check": (_STUDY, _RECIPE),
    "convert": (_STUDY, _RECIPE, *_flags("--force")),
    "plan": (_DATASET, _CONFIGURATION, *_words(planner="--planner")),
    "train": (
        *(_DATASET, _CONFIGURATION, _FOLD, *_MODEL, *_DEVICE, _RECIPE),
        *_words(repeat="--repeat", on="--on", gpus="--gpus"),
        *_flags("--yes", "--restart"),
    ),
    "run": (
        *(_STUDY, _RECIPE, _CONFIGURATION, _FOLD, *_MODEL, *_DEVICE),
        *_flags("--yes"),
    ),
    "select": (_DATASET, *_words(budget="--budget"), *_flags("--nested")),
    "compare": (
        *(_DATASET, _OUT, _CONFIGURATION, _Option("model", "--model", many=True)),
        *_words(budget="--budget"),
    ),
    "audit": (_DATASET, _OUT),
    "predict": (
        *(_DATASET, _Option("inputs", kind="path", many=True), _OUT, _CONFIGURATION),
        *(_FOLD, *_MODEL, *_DEVICE, _RECIPE),
        *_words(
            slices="--slices",
            from_mm="--from-mm",
            to_mm="--to-mm",
            region="--region",
            series="--series",
            image_type="--image-type",
            clean="--clean",
            side="--side",
        ),
        *_flags("--mesh", "--seg-nrrd", "--dicom-seg", "--force"),
    ),
    "pack": (_DATASET, _OUT, _CONFIGURATION, _FOLD, *_MODEL),
    "unpack": (_Option("file", kind="path"),),
    "doctor": (),
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
        empty = value in (None, "", False, [])
        if empty and not option.flag:
            raise UsageError(f"{name.capitalize()} is missing.")
        if not empty:
            own = flags if option.flag else arguments
            own += option.words(value, roots)
    tail = ["--", *arguments] if arguments else []
    return [command, *flags, f"--workspace={workspace}", *tail]
