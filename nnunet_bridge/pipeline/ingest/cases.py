"""Assemble one case: its scan and its masks become image and labelmap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nnunet_bridge.core.case_table import Role
from nnunet_bridge.core.cases import findings_of_error
from nnunet_bridge.core.dataset import Case
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault, InputError
from nnunet_bridge.core.findings import (
    Finding,
    Outcome,
    Refused,
    refusal,
    warning,
    worst,
)
from nnunet_bridge.core.image import Label, Labelmap, Volume
from nnunet_bridge.core.partly import PARTIAL, PartlyDrawn
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.dicom import FileAccount, SeriesOptions, SeriesRefused
from nnunet_bridge.formats.dicom.drawn import read_drawn
from nnunet_bridge.formats.dicom.headers import holds_segments
from nnunet_bridge.formats.labels_file import IGNORE
from nnunet_bridge.formats.manifest import MaskRecord
from nnunet_bridge.formats.mask_values import Meaning
from nnunet_bridge.formats.mesh_files import FRAMES
from nnunet_bridge.formats.recipe import MIXED_STATES, Recipe
from nnunet_bridge.formats.slicer import (
    StructureMask,
    is_mask_file,
    read_labelmap,
    read_mask,
    read_segments,
)
from nnunet_bridge.formats.surfaces import Surface, filled_surface, read_surface
from nnunet_bridge.ops.checks import (
    DrawnStructure,
    centroid_mm,
    laterality,
    on_the_image,
    specks,
    touches_an_end,
)
from nnunet_bridge.ops.content import ContentFit, content_findings
from nnunet_bridge.ops.merge import MaskMerger, Overlap
from nnunet_bridge.ops.midline import midline_of
from nnunet_bridge.ops.region import Region, cropped_labelmap, cropped_volume
from nnunet_bridge.ops.regrid import Placement, StatedPlace, placed_on
from nnunet_bridge.ops.surface_frame import frame_by_image
from nnunet_bridge.pipeline.ingest.channels import read_channels
from nnunet_bridge.pipeline.ingest.inputs import ImageReading
from nnunet_bridge.pipeline.ingest.planned import CasePlan, MaskFile

_MOST_BEYOND = 0.1  # share of the drawn voxels beyond the midline of one side


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
    reading: ImageReading
    region: Region  # the slices that were kept, and the grid of the whole scan
    masks: CaseMasks


def assemble_case(plan: CasePlan, recipe: Recipe) -> AssembledCase:
    """Read, check and merge the files of one case.

    Raises `CaseRefused` with all findings, if the case cannot be used.
    """
    if plan.scan is None or worst(plan.findings) is Outcome.REFUSED:
        raise CaseRefused(plan.findings, FileAccount())
    try:
        words = recipe.image_channels, series_options(recipe)
        reading = read_channels(plan.scan, *words)
    except EnvironmentFault:
        raise
    except BridgeError as error:
        files = error.files if isinstance(error, SeriesRefused) else FileAccount()
        before = (*plan.findings, *findings_of_error(error))
        raise CaseRefused(before, files) from error
    masks = CaseMasks(plan, recipe, reading)
    labelmap = masks.read() if plan.masks else None
    findings = [*plan.findings, *reading.findings, *masks.findings]
    findings += _unread_masks(reading.files)
    gap_at_an_end = labelmap and any(f.code == "G04" for f in findings)
    if labelmap and gap_at_an_end and touches_an_end(labelmap):
        text = "A structure reaches the end of the stack, where slices may be missing."
        findings.append(warning("G04", text))
    region = _kept_region(recipe, reading.volume, labelmap)
    if region is None:
        asked = f"`region.slices` asks for slices {recipe.region.slices}"
        count = reading.volume.grid.shape[2]
        findings.append(refusal("K20", f"{asked}, but the scan has {count}."))
    if region is None or worst(findings) is Outcome.REFUSED:
        raise CaseRefused(findings, reading.files)
    case = Case(
        plan.case_id,
        tuple(cropped_volume(volume, region) for volume in reading.volumes),
        labelmap and cropped_labelmap(labelmap, region),
    )
    return AssembledCase(case, tuple(findings), reading, region, masks)


def _unread_masks(files: FileAccount) -> Iterator[Finding]:
    """Warn of DICOM segmentations beside the slices that no mask names (K21)."""
    for name, reason in files.excluded:
        if holds_segments(reason):
            what = f"{quoted(name)} is {reason.partition(' but ')[2]} and is not used:"
            how = "give it a row in the case table, with the role segmentation or"
            yield warning("K21", f"{what} {how} ignore.")


def series_options(recipe: Recipe) -> SeriesOptions:
    """Return the options of ``[scans]`` that apply to every series."""
    names = SeriesOptions.__dataclass_fields__.keys() & type(recipe.scans).model_fields
    return SeriesOptions(**{name: getattr(recipe.scans, name) for name in names})


@dataclass(slots=True, eq=False)
class CaseMasks:
    """The masks of one case: read one after the other, checked and merged."""

    plan: CasePlan
    recipe: Recipe
    reading: ImageReading
    findings: list[Finding] = field(default_factory=list)
    accounts: list[MaskRecord] = field(default_factory=list)
    """One per mask; `source` is a file name and must be hashed."""

    overlaps: tuple[Overlap, ...] = ()
    fit: ContentFit | None = None  # how the masks fit the image; None without masks
    ignored_share: float = 0.0
    partly: PartlyDrawn | None = None  # what was drawn, if not everything was
    drawn: list[DrawnStructure] = field(default_factory=list)
    states: dict[tuple[str, str], str] = field(default_factory=dict)
    """(structure, side) -> ``labelled`` or ``empty``."""

    frame: str | None = None
    """Of surfaces, as the image decides it (K27); empty if it could not."""

    surfaces: dict[Path, Surface] = field(default_factory=dict)  # still to be filled
    lost_a_mask: bool = False
    """Whether a mask was refused; its structure is then not reported as missing."""

    @property
    def volume(self) -> Volume:
        """The image."""
        return self.reading.volume

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
        self.overlaps = merged.overlaps
        ignored = self._missing_structures()
        labelmap = merged.labelmap
        if not labelmap.voxels.any() and not self._refused:
            self.findings.append(refusal("K14", "No voxel of the case is labelled."))
        self.findings += on_the_image(self.volume, labelmap)
        if not self._refused:
            findings, self.fit = content_findings(self.volume, labelmap)
            self.findings += findings
        if ignored and self.partly:
            self.findings.append(refusal("K15", f"{MIXED_STATES}."))
        elif not self._refused:
            self._find_side(labelmap)
        if ignored and self.recipe.uses_ignore:
            labelmap = self._with_ignored(labelmap, ignored)
        return labelmap

    @property
    def _refused(self) -> bool:
        return worst(self.findings) is Outcome.REFUSED

    def _read_file(self, file: MaskFile, merger: MaskMerger) -> None:
        """Add the masks of a file; the findings of a refused file are kept."""
        try:
            for mask in self._structures_in(file):
                self._add(mask, merger)
        except EnvironmentFault:
            raise
        except BridgeError as error:
            self._lose(error)

    def _structures_in(self, file: MaskFile) -> Iterator[StructureMask]:
        if file.role is Role.SURFACE:
            surface = self._surface(file.path)
            frame = self.recipe.masks.frame or surface.frame or self._frame_by_image()
            del self.surfaces[file.path]
            name, side, grid = file.structure or "", file.side, self.volume.grid
            if frame:
                yield filled_surface(surface, grid, frame=frame, name=name, side=side)
        elif file.role is Role.LABELMAP:
            yield from read_labelmap(file.path, file.names)
        elif file.structure is None and is_mask_file(file.path.name):
            yield from read_segments(file.path, file.names, own_names=file.own_names)
        elif file.structure is None:
            yield from read_drawn(
                file.path,
                file.names,
                own_names=file.own_names,
                grid=self.volume.grid,
                scan=self.reading.series,
                threshold=self.recipe.masks.threshold,
            )
        else:
            name, side = file.structure, file.side
            values = self.recipe.values_of(name)
            meaning = Meaning(values, self.recipe.masks.threshold)
            yield read_mask(file.path, name=name, side=side, meaning=meaning)

    def _surface(self, file: Path) -> Surface:
        """Return a surface, read once although its frame may be decided before."""
        if file not in self.surfaces:
            self.surfaces[file] = read_surface(file)
        return self.surfaces[file]

    def _frame_by_image(self) -> str:
        """Return the frame of the surfaces that state none; empty if it is refused."""
        if self.frame is None:
            self.frame, surfaces = "", []
            for file in self.plan.masks:
                with suppress(Refused):  # it is reported where it is read as a mask
                    if file.role is Role.SURFACE:
                        surfaces.append(self._surface(file.path))
            without = [(s.points, s.faces) for s in surfaces if not s.frame]
            self.frame, finding = frame_by_image(self.volume, without, FRAMES)
            self.findings.append(finding)
        return self.frame

    def _lose(self, error: BridgeError) -> None:
        self.findings += findings_of_error(error)
        self.lost_a_mask = True

    def _add(self, mask: StructureMask, merger: MaskMerger) -> None:
        """Add a mask on the grid of the image, or keep the reason why it is refused."""
        self.findings += mask.findings
        shown = quoted(mask.file)
        if mask.name and mask.name not in mask.file:
            shown = f"{quoted(mask.name)} of {shown}"
        if self.recipe.leaves_out(mask.name):
            text = f"{shown} was left out, as `masks.leave_out` of the recipe asks."
            self.findings.append(Finding("K21", Outcome.ACCEPTED, text))
            return
        try:
            structure, side = self.recipe.structure_of(mask.name, mask.side)
            label = self.recipe.label_of(structure, side)
            self._claim(structure, side, shown)
            stated = StatedPlace(
                self.recipe.slices_of(self.plan.case_id),
                as_image=self.plan.case_id in self.recipe.masks.ignore_place,
            )
            grid = self.volume.grid
            placement = placed_on(
                grid, mask.grid, mask.voxels, name=shown, stated=stated
            )
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

    def _claim(self, structure: str, side: str, shown: str) -> None:
        """Refuse a structure that is drawn twice (K21)."""
        sides = [known for name, known in self.states if name == structure]
        mixed = any(bool(known) != bool(side) for known in sides)
        if side in sides or mixed:
            which = f"{structure} ({side})" if side else structure
            text = f"{which} is drawn twice, the second time in {shown}: remove one of"
            raise Refused.because("K21", f"{text} the two masks.")
        self.states[structure, side] = "empty"

    def _missing_structures(self) -> list[str]:
        """Check labels without a voxel; return those to be ignored (K14, K15)."""
        declared = self.recipe.cases.get(self.plan.case_id, {})
        drawn = self.recipe.drawn.side_of(self.plan.case_id)
        other_side = {Side.LEFT, Side.RIGHT} - {drawn} if drawn else ()
        ignored, partly = [], []
        for label in self.recipe.table:
            structure = label.name.removesuffix(f"_{label.side}" if label.side else "")
            state = self._state_of(structure, label)
            stated = declared.get(label.name) or declared.get(structure)
            if state == "labelled":
                if stated in ("absent", PARTIAL):
                    what = "absent" if stated == "absent" else "not drawn"
                    text = f"The recipe declares {label.name} {what}, but it is drawn"
                    self.findings.append(refusal("K15", f"{text}: correct one."))
                continue
            wanted = stated or self.recipe.merge.missing
            if wanted == IGNORE:
                ignored.append(label.name)
            elif wanted == PARTIAL or label.side in other_side:
                partly.append(label.name)
            elif wanted != "absent" and not self.lost_a_mask:
                self.findings.append(_not_drawn(label.name, state, self.plan))
            without_mask = "absent" if wanted == "absent" else "unlabelled"
            place = {"structure": structure, "side": label.side, "source": ""}
            self.accounts.append(MaskRecord(**place, state=without_mask))
        if partly:
            self.partly = PartlyDrawn(frozenset(partly))
            names = " or ".join(partly)
            text = f"{names} not drawn: the rest trains as background or {names}."
            self.findings.append(warning("K15", text))
        return ignored

    def _find_side(self, labelmap: Labelmap) -> None:
        """Find the midline of a case of which one side was drawn (K31)."""
        side = self.recipe.drawn.side_of(self.plan.case_id)
        if not side or self.recipe.merge.sides == "separate":
            return
        middle = {name for name, where in self.states if where == Side.MIDDLE}
        try:
            midline = midline_of(self.volume)
        except InputError as error:
            way = f"draw both sides, or remove the side {side} of the case"
            self.findings.append(refusal("K31", f"{error} Instead, {way}."))
            return
        not_drawn = self.partly.not_drawn if self.partly else frozenset[str]()
        self.partly = PartlyDrawn(not_drawn, side, midline, frozenset(middle))
        known = replace(labelmap.labels, partly_drawn={self.plan.case_id: self.partly})
        kept = replace(labelmap, labels=known).judged(self.plan.case_id)
        share = 1 - np.count_nonzero(kept.voxels) / np.count_nonzero(labelmap.voxels)
        text = (
            f"Only the {side} side was drawn, and {share:.0%} of the drawn voxels lie"
        )
        text = f"{text} beyond the midline (x = {midline.point_mm[0]:.0f} mm)"
        if share > _MOST_BEYOND:
            way = "correct the side, or give masks of both sides the side middle."
            self.findings.append(refusal("K31", f"{text}: {way}"))
        else:
            self.findings.append(warning("K31", f"{text}."))

    def _state_of(self, structure: str, label: Label) -> str:
        """Return ``labelled``, ``empty`` (a mask without voxels) or ``unlabelled``."""
        states = {
            state
            for (name, side), state in self.states.items()
            if name == structure and label.side in ("", side or "middle")
        }
        return max(states, default="unlabelled", key=("empty", "labelled").index)

    def _with_ignored(self, labelmap: Labelmap, unlabelled: list[str]) -> Labelmap:
        """Mark every voxel outside the drawn structures as ignored (K15)."""
        value = labelmap.voxels.dtype.type(self.recipe.table.highest_value)
        voxels = np.where(labelmap.voxels == 0, value, labelmap.voxels)
        self.ignored_share = float(np.count_nonzero(voxels == value)) / voxels.size
        share = f"{self.ignored_share:.1%} of the voxels are ignored in training."
        text = f"{' and '.join(unlabelled)} not drawn: {share}"
        self.findings.append(warning("K15", text))
        return labelmap.with_voxels(voxels)


def _by_file(findings: Iterable[Finding], shown: str, file: str) -> Iterator[Finding]:
    """Let a correction name the file, so that all its segments share one message."""
    for finding in findings:
        fixed = finding.outcome is Outcome.FIXED
        message = finding.message.replace(shown, quoted(file))
        yield replace(finding, message=message) if fixed else finding


def _mask_account(
    mask: StructureMask, structure: str, side: str, placement: Placement
) -> MaskRecord:
    return MaskRecord(
        structure=structure,
        side=side,
        source=mask.file,
        state="labelled" if placement.voxels_after else "empty",
        read_as=mask.read_as,
        method=placement.method,
        voxels_before=placement.voxels_before,
        voxels_after=placement.voxels_after,
        voxels_outside=placement.voxels_outside,
        volume_change=placement.volume_change,
    )


def _not_drawn(structure: str, state: str, plan: CasePlan) -> Finding:
    code, what = ("K14", "is empty") if state == "empty" else ("K15", "is missing")
    absent = f'write `{structure} = "absent"` below [cases.{plan.case_id}]'
    ignored = 'write "partial" or "ignore"'
    if plan.meaning:
        absent = "give it a row in the case table with the state absent"
        ignored = "with the state unlabelled"
    return refusal(
        code,
        f"The mask of {structure} {what}. If the patient does not have it, {absent}; "
        f"if it was not drawn, {ignored}.",
    )


def _kept_region(
    recipe: Recipe, volume: Volume, labelmap: Labelmap | None
) -> Region | None:
    """Return the slices that ``[region]`` keeps; None if the scan has none of them."""
    first, end, asked = 0, volume.grid.shape[2], recipe.region
    if asked.crop == "slices" and asked.slices is not None:
        first, end = asked.slices[0], min(asked.slices[1], end)
    elif asked.crop == "labels" and labelmap is not None:
        labelled = np.flatnonzero(labelmap.without_ignored().voxels.any(axis=(0, 1)))
        if labelled.size:
            first, end = int(labelled[0]), int(labelled[-1]) + 1
    return Region(first, end, volume.grid) if first < end else None
