"""Show the case table of a study for correction, and write what was corrected.

Rows go by the number of their line; a table that has changed since it was read is not
written. `init` marks in the notes which names it did not understand.
"""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.case_table import DRAWN_ROLES, Role
from nnunet_bridge.core.errors import RecipeError, UsageError
from nnunet_bridge.core.findings import Refused
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.case_table import TableLine, change_lines, read_lines
from nnunet_bridge.formats.files import read_text, write_text
from nnunet_bridge.formats.recipe import Recipe, read_recipe, recipe_from
from nnunet_bridge.formats.recipe_labels import with_labels
from nnunet_bridge.pipeline.ingest.draft import NOT_KNOWN, VALUE_WITHOUT_NAME
from nnunet_bridge.pipeline.ingest.planned import comparable

_FILES_SHOWN = 3
LEFT_OUT = "ignore"


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A name without a structure, or with a guessed one, and its rows."""

    name: str
    taken_as: str  # the structure in the rows now; empty if none
    hint: str  # what the note says of it
    lines: tuple[TableLine, ...]

    def as_json(self) -> JsonObject:
        """Return what a list of names shows."""
        files = dict.fromkeys(line.cells.get("file", "") for line in self.lines)
        return {
            "name": self.name,
            "taken_as": self.taken_as,
            "hint": self.hint,
            "rows": len(self.lines),
            "files": list(files)[:_FILES_SHOWN],
        }


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A case table as it is on the disk, and the recipe that names it."""

    recipe: Recipe
    file: Path
    lines: tuple[TableLine, ...]
    sha256: str

    @classmethod
    def of(cls, recipe_file: Path) -> "OpenTable":
        """Read the table of a recipe; raise `RecipeError` if it has none."""
        recipe = read_recipe(recipe_file)
        if recipe.case_table is None:
            raise RecipeError(f"{recipe_file.name} has no case table: patterns decide.")
        return cls(recipe, recipe.case_table, *read_lines(recipe.case_table))

    def cases(self) -> dict[str, list[TableLine]]:
        """Return the lines by case: by its id, or else by ``patient/visit``.

        Lines without either are the case of no name.
        """
        ids: dict[tuple[str, str], str] = {}
        for line in self.lines:
            if (case := line.cells.get("case")) and line.cells.get("patient"):
                ids.setdefault(_patient(line), case)
        found: dict[str, list[TableLine]] = {}
        for line in self.lines:
            patient = _patient(line)
            own = "/".join(patient) if any(patient) else ""
            case = line.cells.get("case") or ids.get(patient) or own
            found.setdefault(case, []).append(line)
        return found

    def unknown(self) -> tuple[UnknownName, ...]:
        """Return the names that have no structure, or one that `init` guessed."""
        found: dict[tuple[str, str], list[tuple[str, TableLine]]] = defaultdict(list)
        for line in self.lines:
            if line.cells.get("role", "").casefold() in DRAWN_ROLES:
                for name, hint in self._unknown_in(line):
                    key = name, line.cells.get("structure", "")
                    found[key].append((hint, line))
        return tuple(
            UnknownName(*key, own[0][0], tuple(line for _, line in own))
            for key, own in found.items()
        )

    def _unknown_in(self, line: TableLine) -> Iterator[tuple[str, str]]:
        """Yield the unknown name of a line, if there is one, and a hint."""
        structure, note = line.cells.get("structure", ""), line.cells.get("note", "")
        if match := NOT_KNOWN.search(note):
            yield match[1][1:-1], match[0]
        elif structure:
            try:
                self.recipe.structure_of(structure, line.cells.get("side", ""))
            except Refused:
                if not self.recipe.leaves_out(structure):
                    yield structure, "not in [labels] of the recipe"
        elif line.cells.get("value") and line.cells.get("state", "drawn") == "drawn":
            yield f"value {line.cells['value']}", note

    def correct(
        self,
        changes: Mapping[int, Mapping[str, str]],
        names: Sequence[tuple[str, str, str]] = (),
        *,
        sha256: str,
    ) -> None:
        """Write changed cells and the structures of unknown names.

        Parameters
        ----------
        names : sequence of (name, structure, side)
            Unknown names: what they mean, or `LEFT_OUT`; without a side, each row
            keeps its own.
        sha256 : str
            Of the table when it was read.

        Raises
        ------
        UsageError
            If the table has changed since, or a name is not unknown.
        RecipeError
            If a changed line or the recipe has mistakes; nothing is written then.
        """
        joined = {number: dict(own) for number, own in changes.items()}
        for number, own in self._meanings(names).items():
            joined[number] = own | joined.get(number, {})
        wanted = [structure for _, structure, _ in names if structure != LEFT_OUT]
        wanted += [own["structure"] for own in joined.values() if own.get("structure")]
        new = [name for name in wanted if not self._means(name)]
        recipe_file = self.recipe.own_files[0]
        text = old = read_text(recipe_file)
        with suppress(RecipeError):  # a removed label may be named elsewhere
            text = _relabelled(old, remove=self._unused(names, joined, wanted))
        text = _relabelled(text, add=new)
        change_lines(self.file, joined, sha256=sha256)
        if text != old:
            write_text(recipe_file, text)

    def _meanings(
        self, names: Sequence[tuple[str, str, str]]
    ) -> dict[int, dict[str, str]]:
        """Return the cells to change for unknown names."""
        known: dict[str, list[TableLine]] = defaultdict(list)
        for one in self.unknown():
            known[one.name].extend(one.lines)
        changes: dict[int, dict[str, str]] = {}
        for name, structure, side in names:
            if name not in known or not structure:
                raise UsageError(f"{name!r} is not among the unknown names.")
            for line in known[name]:
                note = NOT_KNOWN.sub("", line.cells.get("note", ""))
                note = VALUE_WITHOUT_NAME.sub("", note).strip("; ")
                cells = {"structure": structure, "note": note}
                cells |= {"side": side} if side else {}
                if structure == LEFT_OUT:
                    cells = {"role": str(Role.IGNORE), "structure": "", "state": ""}
                changes[line.number] = cells
        return changes

    def _means(self, name: str) -> bool:
        with suppress(Refused):
            return bool(self.recipe.structure_of(name))
        return False

    def _unused(
        self,
        names: Sequence[tuple[str, str, str]],
        changes: Mapping[int, Mapping[str, str]],
        wanted: Sequence[str],
    ) -> list[str]:
        """Return the labels that only stood for a name which means something else."""
        asked = {name for name, *_ in names}
        guessed = {u.taken_as for u in self.unknown() if u.name in asked}
        kept = {*wanted}
        for line in self.lines:
            cells = {**line.cells, **changes.get(line.number, {})}
            kept.add(cells.get("structure", ""))
        return [name for name in self.recipe.labels if name in guessed - kept]


def _relabelled(
    text: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> str:
    """Return a recipe with other labels; `RecipeError` if it would not be valid."""
    new = with_labels(text, add=add, remove=remove)
    recipe_from(tomllib.loads(new))
    return new


def _patient(line: TableLine) -> tuple[str, str]:
    return (
        comparable(line.cells.get("patient", "")),
        comparable(line.cells.get("visit", "")),
    )
