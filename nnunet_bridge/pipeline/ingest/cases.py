"""One case: a DICOM folder and its masks become images and a labelmap on one grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_bridge.core.dataset import Case
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import BoolArray, Label, Labelmap, Volume
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.dicom import (
    FileAccount,
    SeriesOptions,
    SeriesReading,
    SeriesRefused,
    read_series,
)
from nnunet_bridge.formats.labels_file import IGNORE
from nnunet_bridge.formats.mask_values import Meaning
from nnunet_bridge.formats.recipe import Recipe, read_recipe
from nnunet_bridge.formats.slicer import (
    StructureMask,
    read_mask,
    read_segments,
)
from nnunet_bridge.ops.checks import (
    DrawnStructure,
    centroid_mm,
    laterality,
    on_the_image,
    specks,
    touches_an_end,
)
from nnunet_bridge.ops.content import AS_GIVEN, ContentFit, content_findings
from nnunet_bridge.ops.merge import Merged, merge_masks
from nnunet_bridge.ops.region import Region, cropped_labelmap, cropped_volume
from nnunet_bridge.ops.regrid import Placement, StatedPlace, placed_on
from nnunet_bridge.pipeline.ingest.matching import CasePlan, MaskFile


class CaseRefused(Refused):
    """No case could be made; carries the account of the files as well."""

    def __init__(self, findings: list[Finding], files: FileAccount) -> None:
        super().__init__(findings)
        self.files = files


@dataclass(frozen=True, slots=True, eq=False)
class AssembledCase:
    """A case that is ready to be written, and its account."""

    case: Case
    findings: tuple[Finding, ...]
    files: FileAccount
    """Of the scan's folder."""

    reading: SeriesReading
    masks: tuple[JsonObject, ...]
    """One account a mask; ``source`` is a file name and must be hashed."""

    overlaps: tuple[JsonObject, ...]
    content: JsonObject
    """How the masks fit the image; empty where there are none."""

    region: Region
    """The slices that were kept, and the grid of the whole scan."""

    ignored_share: float


def assemble_case(plan: CasePlan, recipe: Recipe) -> AssembledCase:
    """Read, check and merge the files of one case.

    Raises
    ------
    CaseRefused
        With everything that was found, if the case cannot be used.
    """
    if worst(plan.findings) is Outcome.REFUSED:
        raise CaseRefused(list(plan.findings), FileAccount())
    findings = list(plan.findings)
    try:
        reading = read_series(plan.scan_dir, series_options(recipe))
    except SeriesRefused as refused:
        raise CaseRefused([*findings, *refused.findings], refused.files) from refused
    findings += reading.findings
    drawing = _Drawing(reading.volume.grid, recipe, plan)
    labelmap = None
    if plan.masks:
        labelmap = _labelmap(drawing, recipe, reading.volume)
    findings += drawing.findings
    if labelmap is not None and any(f.code == "G04" for f in findings):
        findings += _cut_off(labelmap)
    if worst(findings) is Outcome.REFUSED:
        raise CaseRefused(findings, reading.files)
    return _cropped(plan, recipe, reading, labelmap, drawing, findings)


def series_options(recipe: Recipe) -> SeriesOptions:
    """Return what ``[scans]`` decides about every series."""
    names = SeriesOptions.__dataclass_fields__
    return SeriesOptions(**{name: getattr(recipe.scans, name) for name in names})


def series_choices(recipe_name: str | None, words: Mapping[str, Any]) -> SeriesOptions:
    """Return what a command says of series, and a recipe where the command is silent.

    Raises
    ------
    RecipeError
        If there is no such recipe, or it is not valid.
    """
    if recipe_name is None:
        return SeriesOptions(**words)
    return series_options(read_recipe(recipe_name).with_scans(**words))


@dataclass(slots=True, eq=False)
class _Drawing:
    """The masks of one case while they go by, one in memory at a time."""

    grid: Grid
    recipe: Recipe
    plan: CasePlan
    findings: list[Finding] = field(default_factory=list)
    accounts: list[JsonObject] = field(default_factory=list)
    drawn: list[DrawnStructure] = field(default_factory=list)
    states: dict[tuple[str, str], str] = field(default_factory=dict)
    """(structure, side) -> ``labelled`` or ``empty``."""

    overlaps: list[JsonObject] = field(default_factory=list)
    content: JsonObject = field(default_factory=dict)
    ignored_share: float = 0.0

    lost_a_mask: bool = False
    """Whether a mask was refused; a structure may then be missing for that reason."""

    @property
    def stated(self) -> StatedPlace:
        """What the recipe says of masks of this case that lost their place."""
        case_id = self.plan.case_id
        return StatedPlace(
            self.recipe.slices_of(case_id),
            as_image=case_id in self.recipe.masks.ignore_place,
        )

    def masks(self) -> Iterator[tuple[Label, BoolArray]]:
        """Go through the masks on the image's grid; note what is wrong with others."""
        for file in self.plan.masks:
            try:
                for mask in _masks_in(file, self.recipe):
                    placed = self._placed(mask)
                    if placed is not None:
                        yield placed
            except Refused as refused:
                self.findings += refused.findings
                self.lost_a_mask = True
            except EnvironmentFault:
                raise
            except BridgeError as error:
                self.findings.append(Finding(error.code, Outcome.REFUSED, str(error)))
                self.lost_a_mask = True

    def _placed(self, mask: StructureMask) -> tuple[Label, BoolArray] | None:
        """Return a mask's label and voxels, or note why it has none."""
        self.findings += mask.findings
        shown = quoted(mask.file)
        if mask.name and mask.name not in mask.file:
            shown = f"{quoted(mask.name)} of {shown}"
        try:
            structure, side = self.recipe.structure_of(mask.name, mask.side)
            label = self.recipe.label_of(structure, side)
            self._claim(structure, side, shown)
            placement = placed_on(
                self.grid, mask.grid, mask.voxels, name=shown, stated=self.stated
            )
        except Refused as refused:
            self.findings += refused.findings
            self.lost_a_mask = True
            return None
        self.findings += _once_a_file(placement.findings, shown, mask.file)
        self._note(mask, structure, side, placement)
        if placement.voxels_after == 0:
            return None
        self.states[structure, side] = "labelled"
        self.findings += specks(placement.voxels, name=shown, parts=1 if side else 2)
        centre = centroid_mm(self.grid, placement.voxels)
        self.drawn.append(DrawnStructure(structure, side, centre))
        return label, placement.voxels

    def _claim(self, structure: str, side: str, shown: str) -> None:
        """Refuse a structure that is drawn twice (K21)."""
        sides = [known for name, known in self.states if name == structure]
        mixed = any(bool(known) != bool(side) for known in sides)
        if side in sides or mixed:
            raise Refused.because(
                "K21",
                f"{structure}{f' ({side})' if side else ''} is drawn twice, the second "
                f"time in {shown}: remove one of the two masks.",
            )
        self.states[structure, side] = "empty"

    def _note(
        self, mask: StructureMask, structure: str, side: str, placement: Placement
    ) -> None:
        self.accounts.append(
            {
                "structure": structure,
                "side": side,
                "source": mask.file,
                "state": "labelled" if placement.voxels_after else "empty",
                "read_as": mask.read_as,
                "method": placement.method,
                "voxels_before": placement.voxels_before,
                "voxels_after": placement.voxels_after,
                "voxels_outside": placement.voxels_outside,
                "volume_change": round(placement.volume_change, 6),
            }
        )


def _once_a_file(findings: Iterable[Finding], shown: str, file: str) -> list[Finding]:
    """Let a correction name the file, so that its segments share one sentence."""
    return [
        Finding(f.code, f.outcome, f.message.replace(shown, quoted(file)))
        if f.outcome is Outcome.FIXED
        else f
        for f in findings
    ]


def _masks_in(file: MaskFile, recipe: Recipe) -> Iterator[StructureMask]:
    if file.structure is None:
        yield from read_segments(file.path)
        return
    meaning = Meaning(recipe.values_of(file.structure), recipe.masks.threshold)
    yield read_mask(file.path, name=file.structure, side=file.side, meaning=meaning)


def _labelmap(drawing: _Drawing, recipe: Recipe, volume: Volume) -> Labelmap:
    merged = merge_masks(
        volume.grid,
        recipe.table,
        drawing.masks(),
        policy=recipe.merge.overlap,
        priority=recipe.merge.priority,
        limit_percent=recipe.merge.overlap_limit_percent,
    )
    drawing.findings += merged.findings
    drawing.findings += laterality(volume.grid, drawing.drawn)
    drawing.overlaps += _overlap_accounts(merged)
    unlabelled = _missing(drawing, recipe)
    labelmap = merged.labelmap
    if not labelmap.voxels.any() and worst(drawing.findings) is not Outcome.REFUSED:
        drawing.findings.append(
            Finding("K14", Outcome.REFUSED, "No voxel of the case is labelled.")
        )
    drawing.findings += on_the_image(volume, labelmap)
    if worst(drawing.findings) is not Outcome.REFUSED:
        findings, fit = content_findings(volume, labelmap)
        drawing.findings += findings
        drawing.content = _content_account(fit, volume.grid)
    if unlabelled and recipe.uses_ignore:
        labelmap = _with_ignored(labelmap, recipe, drawing, unlabelled)
    return labelmap


def _content_account(fit: ContentFit, grid: Grid) -> JsonObject:
    """Return what the manifest says of how the masks fit the image (K23)."""
    better = fit.best != AS_GIVEN
    return {
        "judged": fit.judged,
        "blocks": fit.blocks,
        "contrast": round(fit.contrast, 6),
        "fits_better": fit.best.said(grid) if better else "",
        "best_contrast": round(fit.best_contrast, 6),
        "z": round(fit.z, 3),
    }


def _overlap_accounts(merged: Merged) -> list[JsonObject]:
    return [
        {
            "structures": [overlap.first, overlap.second],
            "voxels": overlap.voxels,
            "volume_cm3": round(overlap.volume_cm3, 6),
            "percent_of_smaller": round(overlap.percent_of_smaller, 6),
        }
        for overlap in merged.overlaps
    ]


def _missing(drawing: _Drawing, recipe: Recipe) -> list[str]:
    """Judge labels that nobody drew; return those to be ignored (K14, K15)."""
    declared = recipe.cases.get(drawing.plan.case_id, {})
    ignored = []
    for label in recipe.table:
        structure = label.name.removesuffix(f"_{label.side}" if label.side else "")
        state = _state(drawing, structure, label)
        wanted = declared.get(label.name, declared.get(structure, recipe.merge.missing))
        if state == "labelled":
            if wanted == "absent" and declared:
                drawing.findings += _drawn_though_absent(label.name, declared)
            continue
        if wanted == IGNORE:
            ignored.append(label.name)
        elif wanted != "absent" and not drawing.lost_a_mask:
            drawing.findings.append(_not_drawn(label.name, state, drawing.plan.case_id))
        drawing.accounts.append(
            {
                "structure": structure,
                "side": label.side,
                "source": "",
                "state": "absent" if wanted == "absent" else "unlabelled",
            }
        )
    return ignored


def _state(drawing: _Drawing, structure: str, label: Label) -> str:
    """Return ``labelled``, ``empty`` (a mask without a voxel) or ``unlabelled``."""
    states = {
        state
        for (name, side), state in drawing.states.items()
        if name == structure and (not label.side or (side or "middle") == label.side)
    }
    return next((s for s in ("labelled", "empty") if s in states), "unlabelled")


def _drawn_though_absent(name: str, declared: Mapping[str, str]) -> list[Finding]:
    if declared.get(name) != "absent":
        return []
    return [
        Finding(
            "K15",
            Outcome.REFUSED,
            f"The recipe says that {name} is absent, but it is drawn: correct one.",
        )
    ]


def _not_drawn(structure: str, state: str, case_id: str) -> Finding:
    code, what = ("K14", "is empty") if state == "empty" else ("K15", "is missing")
    return Finding(
        code,
        Outcome.REFUSED,
        f"The mask of {structure} {what}. If the patient has none, write "
        f'`{structure} = "absent"` below [cases.{case_id}]; if nobody drew '
        'it, "ignore".',
    )


def _with_ignored(
    labelmap: Labelmap, recipe: Recipe, drawing: _Drawing, unlabelled: list[str]
) -> Labelmap:
    """Mark every voxel that no drawn structure holds as not judged (K15)."""
    value = recipe.table.highest_value
    voxels = np.where(
        labelmap.voxels == 0, labelmap.voxels.dtype.type(value), labelmap.voxels
    )
    share = float(np.count_nonzero(voxels == value)) / voxels.size
    drawing.ignored_share = share
    drawing.findings.append(
        Finding(
            "K15",
            Outcome.WARNED,
            f"{' and '.join(unlabelled)} not drawn: {share:.1%} of the voxels are "
            "ignored in training.",
        )
    )
    return labelmap.with_voxels(voxels)


def _cut_off(labelmap: Labelmap) -> list[Finding]:
    if not touches_an_end(labelmap):
        return []
    return [
        Finding(
            "G04",
            Outcome.WARNED,
            "A structure reaches the end of the stack, where slices may be missing.",
        )
    ]


def _cropped(
    plan: CasePlan,
    recipe: Recipe,
    reading: SeriesReading,
    labelmap: Labelmap | None,
    drawing: _Drawing,
    findings: list[Finding],
) -> AssembledCase:
    """Keep the slices that the recipe wants, and remember which (the region)."""
    volume = reading.volume
    first, end = _kept_slices(recipe, volume, labelmap)
    if end - first < 1:
        refusal = Finding(
            "K20",
            Outcome.REFUSED,
            f"`region.slices` asks for slices {recipe.region.slices}, but the scan has "
            f"{volume.grid.shape[2]}.",
        )
        raise CaseRefused([*findings, refusal], reading.files)
    region = Region(first, end, volume.grid)
    return AssembledCase(
        Case(
            plan.case_id,
            (cropped_volume(volume, region),),
            labelmap and cropped_labelmap(labelmap, region),
        ),
        tuple(findings),
        reading.files,
        reading,
        tuple(drawing.accounts),
        tuple(drawing.overlaps),
        drawing.content,
        region,
        drawing.ignored_share,
    )


def _kept_slices(
    recipe: Recipe, volume: Volume, labelmap: Labelmap | None
) -> tuple[int, int]:
    slices = volume.grid.shape[2]
    if recipe.region.crop == "slices" and recipe.region.slices is not None:
        return recipe.region.slices[0], min(recipe.region.slices[1], slices)
    if recipe.region.crop == "labels" and labelmap is not None:
        drawn = labelmap.without_ignored().voxels
        labelled = np.flatnonzero(drawn.any(axis=(0, 1)))
        return int(labelled[0]), int(labelled[-1]) + 1
    return 0, slices


def input_files(plan: CasePlan) -> dict[str, Path]:
    """Return every file that a case is made of, by its name for the manifest."""
    scans: dict[str, Path] = {}
    for file in sorted(plan.scan_dir.rglob("*")):
        if file.is_file() and not file.is_symlink():
            scans[f"scan/{file.relative_to(plan.scan_dir).as_posix()}"] = file
    return scans | {f"mask/{mask.path.name}": mask.path for mask in plan.masks}
