"""Assemble one case: a DICOM folder and its masks become image and labelmap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_bridge.core.cases import findings_of_error
from nnunet_bridge.core.dataset import Case
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import (
    Finding,
    Outcome,
    Refused,
    refusal,
    warning,
    worst,
)
from nnunet_bridge.core.grid import Grid
from nnunet_bridge.core.image import Label, Labelmap, Volume
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
from nnunet_bridge.formats.recipe import Recipe
from nnunet_bridge.formats.slicer import StructureMask, read_mask, read_segments
from nnunet_bridge.ops.checks import (
    DrawnStructure,
    centroid_mm,
    laterality,
    on_the_image,
    specks,
    touches_an_end,
)
from nnunet_bridge.ops.content import AS_GIVEN, ContentFit, content_findings
from nnunet_bridge.ops.merge import MaskMerger, Overlap
from nnunet_bridge.ops.region import Region, cropped_labelmap, cropped_volume
from nnunet_bridge.ops.regrid import Placement, StatedPlace, placed_on
from nnunet_bridge.pipeline.ingest.matching import CasePlan, MaskFile


class CaseRefused(Refused):
    """The case cannot be used; carries the account of its files as well."""

    def __init__(self, findings: Iterable[Finding], files: FileAccount) -> None:
        super().__init__(findings)
        self.files = files


@dataclass(frozen=True, slots=True, eq=False)
class AssembledCase:
    """A case that is ready to be written, and its account."""

    case: Case
    findings: tuple[Finding, ...]
    reading: SeriesReading
    region: Region
    """The slices that were kept, and the grid of the whole scan."""

    masks: tuple[JsonObject, ...] = ()
    """One account per mask; ``source`` is a file name and must be hashed."""

    overlaps: tuple[JsonObject, ...] = ()
    content: JsonObject = field(default_factory=dict)
    """How the masks fit the image; empty without masks."""

    ignored_share: float = 0.0

    @property
    def files(self) -> FileAccount:
        """The use of every file in the folder of the scan."""
        return self.reading.files


def assemble_case(plan: CasePlan, recipe: Recipe) -> AssembledCase:
    """Read, check and merge the files of one case.

    Raises
    ------
    CaseRefused
        With all findings, if the case cannot be used.
    """
    if worst(plan.findings) is Outcome.REFUSED:
        raise CaseRefused(plan.findings, FileAccount())
    try:
        reading = read_series(plan.scan_dir, series_options(recipe))
    except SeriesRefused as refused:
        findings = (*plan.findings, *refused.findings)
        raise CaseRefused(findings, refused.files) from refused
    masks = _CaseMasks(plan, recipe, reading.volume)
    labelmap = masks.read() if plan.masks else None
    findings = (*plan.findings, *reading.findings, *masks.findings)
    if labelmap is not None and any(f.code == "G04" for f in findings):
        findings += _cut_off(labelmap)
    region = _kept_region(recipe, reading.volume, labelmap)
    if region is None:
        findings += (_outside(recipe, reading.volume),)
    if region is None or worst(findings) is Outcome.REFUSED:
        raise CaseRefused(findings, reading.files)
    image = cropped_volume(reading.volume, region)
    reference = labelmap and cropped_labelmap(labelmap, region)
    return AssembledCase(
        Case(plan.case_id, (image,), reference),
        findings,
        reading,
        region,
        tuple(masks.accounts),
        tuple(masks.overlaps),
        masks.content,
        masks.ignored_share,
    )


def series_options(recipe: Recipe) -> SeriesOptions:
    """Return the options of ``[scans]`` that apply to every series."""
    names = SeriesOptions.__dataclass_fields__
    return SeriesOptions(**{name: getattr(recipe.scans, name) for name in names})


@dataclass(slots=True, eq=False)
class _CaseMasks:
    """The masks of one case: read one after the other, checked and merged."""

    plan: CasePlan
    recipe: Recipe
    volume: Volume
    findings: list[Finding] = field(default_factory=list)
    accounts: list[JsonObject] = field(default_factory=list)
    overlaps: list[JsonObject] = field(default_factory=list)
    content: JsonObject = field(default_factory=dict)
    ignored_share: float = 0.0

    drawn: list[DrawnStructure] = field(default_factory=list)
    states: dict[tuple[str, str], str] = field(default_factory=dict)
    """(structure, side) -> ``labelled`` or ``empty``."""

    lost_a_mask: bool = False
    """Whether a mask was refused; its structure is then not reported as missing."""

    def read(self) -> Labelmap:
        """Return the labelmap of all masks; `findings` tell whether it may be used."""
        merger = MaskMerger(self.volume.grid, self.recipe.table)
        for file in self.plan.masks:
            self._read_file(file, merger)
        merge = self.recipe.merge
        merged = merger.merged(
            policy=merge.overlap,
            priority=merge.priority,
            limit_percent=merge.overlap_limit_percent,
        )
        self.findings += merged.findings
        self.findings += laterality(self.volume.grid, self.drawn)
        self.overlaps += map(_overlap_account, merged.overlaps)
        ignored = self._missing_structures()
        labelmap = merged.labelmap
        if not labelmap.voxels.any() and not self._refused:
            self.findings.append(refusal("K14", "No voxel of the case is labelled."))
        self.findings += on_the_image(self.volume, labelmap)
        if not self._refused:
            findings, fit = content_findings(self.volume, labelmap)
            self.findings += findings
            self.content = _content_account(fit, self.volume.grid)
        if ignored and self.recipe.uses_ignore:
            labelmap = self._with_ignored(labelmap, ignored)
        return labelmap

    @property
    def _refused(self) -> bool:
        return worst(self.findings) is Outcome.REFUSED

    def _read_file(self, file: MaskFile, merger: MaskMerger) -> None:
        """Add the masks of a file; the findings of a refused file are kept."""
        try:
            for mask in _masks_in(file, self.recipe):
                self._add(mask, merger)
        except EnvironmentFault:
            raise
        except BridgeError as error:
            self._lose(error)

    def _lose(self, error: BridgeError) -> None:
        self.findings += findings_of_error(error)
        self.lost_a_mask = True

    def _add(self, mask: StructureMask, merger: MaskMerger) -> None:
        """Add a mask on the grid of the image, or keep the reason why it is refused."""
        self.findings += mask.findings
        shown = quoted(mask.file)
        if mask.name and mask.name not in mask.file:
            shown = f"{quoted(mask.name)} of {shown}"
        try:
            structure, side = self.recipe.structure_of(mask.name, mask.side)
            label = self.recipe.label_of(structure, side)
            self._claim(structure, side, shown)
            placement = self._placed(mask, shown)
        except Refused as refused:
            self._lose(refused)
            return
        self.findings += _by_file(placement.findings, shown, mask.file)
        self.accounts.append(_mask_account(mask, structure, side, placement))
        if placement.voxels_after == 0:
            return
        self.states[structure, side] = "labelled"
        self.findings += specks(placement.voxels, name=shown, parts=1 if side else 2)
        centre = centroid_mm(self.volume.grid, placement.voxels)
        self.drawn.append(DrawnStructure(structure, side, centre))
        merger.add(label, placement.voxels)

    def _placed(self, mask: StructureMask, shown: str) -> Placement:
        """Place a mask, by what the recipe states of masks without a position."""
        case_id, recipe = self.plan.case_id, self.recipe
        stated = StatedPlace(
            recipe.slices_of(case_id), as_image=case_id in recipe.masks.ignore_place
        )
        grid = self.volume.grid
        return placed_on(grid, mask.grid, mask.voxels, name=shown, stated=stated)

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

    def _missing_structures(self) -> list[str]:
        """Check labels without a voxel; return those to be ignored (K14, K15)."""
        declared = self.recipe.cases.get(self.plan.case_id, {})
        ignored = []
        for label in self.recipe.table:
            structure = label.name.removesuffix(f"_{label.side}" if label.side else "")
            state = self._state_of(structure, label)
            stated = declared.get(label.name) or declared.get(structure)
            if state == "labelled":
                if stated == "absent":
                    self.findings.append(_drawn_though_absent(label.name))
                continue
            wanted = stated or self.recipe.merge.missing
            if wanted == IGNORE:
                ignored.append(label.name)
            elif wanted != "absent" and not self.lost_a_mask:
                self.findings.append(_not_drawn(label.name, state, self.plan.case_id))
            self.accounts.append(
                {
                    "structure": structure,
                    "side": label.side,
                    "source": "",
                    "state": "absent" if wanted == "absent" else "unlabelled",
                }
            )
        return ignored

    def _state_of(self, structure: str, label: Label) -> str:
        """Return ``labelled``, ``empty`` (a mask without voxels) or ``unlabelled``."""
        states = {
            state
            for (name, side), state in self.states.items()
            if name == structure
            and (not label.side or (side or "middle") == label.side)
        }
        return next((s for s in ("labelled", "empty") if s in states), "unlabelled")

    def _with_ignored(self, labelmap: Labelmap, unlabelled: list[str]) -> Labelmap:
        """Mark every voxel outside the drawn structures as ignored (K15)."""
        value = labelmap.voxels.dtype.type(self.recipe.table.highest_value)
        voxels = np.where(labelmap.voxels == 0, value, labelmap.voxels)
        self.ignored_share = float(np.count_nonzero(voxels == value)) / voxels.size
        text = (
            f"{' and '.join(unlabelled)} not drawn: {self.ignored_share:.1%} of the "
            "voxels are ignored in training."
        )
        self.findings.append(warning("K15", text))
        return labelmap.with_voxels(voxels)


def _masks_in(file: MaskFile, recipe: Recipe) -> Iterator[StructureMask]:
    if file.structure is None:
        yield from read_segments(file.path)
        return
    meaning = Meaning(recipe.values_of(file.structure), recipe.masks.threshold)
    yield read_mask(file.path, name=file.structure, side=file.side, meaning=meaning)


def _by_file(findings: Iterable[Finding], shown: str, file: str) -> Iterator[Finding]:
    """Let a correction name the file, so that all its segments share one message."""
    for finding in findings:
        if finding.outcome is Outcome.FIXED:
            message = finding.message.replace(shown, quoted(file))
            yield Finding(finding.code, finding.outcome, message)
        else:
            yield finding


def _mask_account(
    mask: StructureMask, structure: str, side: str, placement: Placement
) -> JsonObject:
    return {
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


def _overlap_account(overlap: Overlap) -> JsonObject:
    return {
        "structures": [overlap.first, overlap.second],
        "voxels": overlap.voxels,
        "volume_cm3": round(overlap.volume_cm3, 6),
        "percent_of_smaller": round(overlap.percent_of_smaller, 6),
    }


def _content_account(fit: ContentFit, grid: Grid) -> JsonObject:
    """Return how the masks fit the image, for the manifest (K23)."""
    return {
        "judged": fit.judged,
        "blocks": fit.blocks,
        "contrast": round(fit.contrast, 6),
        "fits_better": "" if fit.best == AS_GIVEN else fit.best.describe(grid),
        "best_contrast": round(fit.best_contrast, 6),
        "z": round(fit.z, 3),
    }


def _drawn_though_absent(name: str) -> Finding:
    return refusal(
        "K15", f"The recipe declares {name} absent, but it is drawn: correct one."
    )


def _not_drawn(structure: str, state: str, case_id: str) -> Finding:
    code, what = ("K14", "is empty") if state == "empty" else ("K15", "is missing")
    return refusal(
        code,
        f"The mask of {structure} {what}. If the patient does not have it, write "
        f'`{structure} = "absent"` below [cases.{case_id}]; if it was not drawn, '
        'write "ignore".',
    )


def _cut_off(labelmap: Labelmap) -> tuple[Finding, ...]:
    if not touches_an_end(labelmap):
        return ()
    text = "A structure reaches the end of the stack, where slices may be missing."
    return (warning("G04", text),)


def _kept_region(
    recipe: Recipe, volume: Volume, labelmap: Labelmap | None
) -> Region | None:
    """Return the slices that ``[region]`` keeps; None if the scan has none of them."""
    first, end = 0, volume.grid.shape[2]
    if recipe.region.crop == "slices" and recipe.region.slices is not None:
        first, end = recipe.region.slices[0], min(recipe.region.slices[1], end)
    elif recipe.region.crop == "labels" and labelmap is not None:
        labelled = np.flatnonzero(labelmap.without_ignored().voxels.any(axis=(0, 1)))
        if labelled.size:
            first, end = int(labelled[0]), int(labelled[-1]) + 1
    return Region(first, end, volume.grid) if first < end else None


def _outside(recipe: Recipe, volume: Volume) -> Finding:
    return refusal(
        "K20",
        f"`region.slices` asks for slices {recipe.region.slices}, but the scan has "
        f"{volume.grid.shape[2]}.",
    )


def input_files(plan: CasePlan) -> dict[str, Path]:
    """Return all input files of a case by their name in the manifest."""
    scans: dict[str, Path] = {}
    for file in sorted(plan.scan_dir.rglob("*")):
        if file.is_file() and not file.is_symlink():
            scans[f"scan/{file.relative_to(plan.scan_dir).as_posix()}"] = file
    return scans | {f"mask/{mask.path.name}": mask.path for mask in plan.masks}
