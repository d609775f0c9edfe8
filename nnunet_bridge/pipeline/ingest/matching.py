"""Match the scans and masks of a study folder to cases, by their names.

Names are split by the named groups of the recipe's patterns. A mask belongs to a scan
if every group that both have (number and code, by convention) is equal. Nothing is
guessed, and every file that looks like a mask is either used or reported.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.core.case_table import Role
from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, refusal, warning
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.dicom.drawn import may_be_drawn, read_drawn_header
from nnunet_bridge.formats.files import is_folder, is_link, is_regular
from nnunet_bridge.formats.folders import named_below
from nnunet_bridge.formats.manifest import read_manifest, salt_of
from nnunet_bridge.formats.recipe import SIDE_WORDS, Recipe, match_name
from nnunet_bridge.formats.slicer import (
    is_mask_file,
    is_segmentation,
    mask_stem,
    read_segment_names,
)
from nnunet_bridge.formats.surfaces import is_surface
from nnunet_bridge.nnunet.names import dataset_folder_name
from nnunet_bridge.ops.naming import composed, natural_key
from nnunet_bridge.pipeline.ingest.planned import (
    CasePlan,
    MaskFile,
    ScanFiles,
    StudyPlan,
    comparable,
    files_below,
    places_of,
    without_collisions,
)
from nnunet_bridge.pipeline.ingest.table_plan import (
    NO_MASK,
    KnownCases,
    plan_from_table,
)
from nnunet_bridge.pipeline.ingest.unused import require_masks

_OWN_GROUPS = frozenset({"structure", "side"})
"""Groups of masks that have no counterpart in the name of a scan."""


@dataclass(frozen=True, slots=True)
class _Scan:
    folder: Path
    groups: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class _Mask:
    file: MaskFile
    groups: Mapping[str, str | None]
    for_testing: bool


def plan_study(study: Path, recipe: Recipe) -> StudyPlan:
    """Return the cases of a study, by the case table of its recipe or by its patterns.

    Raises `RecipeError` if the case table has mistakes. Raises `InputError` if no scan
    of the folder fits the recipe.
    """
    return planned_study(study, recipe)[0]


def planned_study(
    study: Path, recipe: Recipe, workspace_raw_dir: Path | None = None
) -> tuple[StudyPlan, Recipe]:
    """Return the cases of a study, and the recipe with what their files say of it.

    In an existing dataset of the workspace, patients of a case table keep their ids.

    Raises
    ------
    RecipeError, InputError
        As `plan_study`, or if no case has a mask although the study holds some.
    """
    table = recipe.case_table
    if table is None:
        plan = _plan_by_names(study, recipe)
    else:
        known = _known_cases(workspace_raw_dir, recipe)
        plan, recipe = plan_from_table(study, table, recipe, known)
    require_masks(study, plan, recipe)
    return plan, recipe.with_middle(_in_the_middle(plan, recipe))


def _known_cases(raw_dir: Path | None, recipe: Recipe) -> KnownCases:
    """Return the cases of an existing dataset."""
    name = dataset_folder_name(recipe.spec())
    records = read_manifest(raw_dir / name).cases if raw_dir else ()
    if not raw_dir or not records:
        return KnownCases()
    return KnownCases.of(records, salt_of(raw_dir))


def _in_the_middle(plan: StudyPlan, recipe: Recipe) -> set[str]:
    """Return the structures that are drawn in the middle, and never on a side."""
    if recipe.merge.sides == "merge":
        return set()
    sides: dict[str, set[str]] = defaultdict(set)
    for mask in {mask for case in plan.cases for mask in case.masks}:
        for written, side in _drawn_in(mask):
            with suppress(Refused):
                structure, found_side = recipe.structure_of(written, side)
                sides[structure].add(found_side)
    return {one for one, own in sides.items() if {"middle"} <= own <= {"middle", ""}}


def _drawn_in(mask: MaskFile) -> Iterator[tuple[str, str]]:
    """Yield name and side of what a mask file holds, as its header or name says."""
    if mask.structure is not None:
        yield mask.structure, mask.side
    yield from ((one.name, one.side) for one in mask.names if one.name)
    if mask.role is Role.SEGMENTATION and mask.own_names:
        with suppress(Refused):
            dicom = not is_mask_file(mask.path.name)
            names = (
                read_drawn_header(mask.path).names
                if dicom
                else read_segment_names(mask.path)
            )
            yield from ((name, "") for name in names)


def _plan_by_names(study: Path, recipe: Recipe) -> StudyPlan:
    findings: list[Finding] = []
    scans = _scans(study, recipe, findings)
    masks = _masks(study, recipe, findings)
    claimed: set[Path] = set()
    plans = []
    for scan in scans:
        own = [mask for mask in masks if _belong_together(scan.groups, mask.groups)]
        claimed |= {mask.file.path for mask in own}
        plans.append(_case(scan, own, recipe))
    orphans = [mask for mask in masks if mask.file.path not in claimed]
    findings += [
        _belongs_to_none(mask.file.path, "no folder has its number and code.")
        for mask in orphans
    ]
    plans = [
        _with_lost_masks(plan, scan, orphans)
        for plan, scan in zip(plans, scans, strict=True)
    ]
    plans = without_collisions(plans)
    known = {place for plan in plans for place in places_of(plan)}
    left_out = dict(_left_out(study, recipe, known))
    return StudyPlan(tuple(plans), tuple(findings), left_out)


def _scans(study: Path, recipe: Recipe, findings: list[Finding]) -> list[_Scan]:
    root = named_below(study, recipe.scans.folder)
    if not root.is_dir():
        there = ", ".join(quoted(p.name) for p in sorted(study.glob("*"))[:8])
        raise InputError(
            f"{study} has no folder {recipe.scans.folder!r} (`scans.folder` of the "
            f"recipe). It holds: {there or 'nothing'}."
        )
    scans: list[_Scan] = []
    for folder in sorted(root.iterdir(), key=lambda path: natural_key(path.name)):
        if not is_folder(folder) or folder.name.startswith("."):
            continue
        taken = {scan.folder.resolve() for scan in scans}
        if folder.is_symlink() and not _is_pooled(folder, study, taken):
            findings.append(_about_link(folder))
            continue
        match = _matched(recipe.scans.pattern, folder.name)
        if match:
            scans.append(_Scan(folder, match.groupdict()))
        else:
            text = "was left out: its name does not fit `scans.pattern` of the recipe."
            findings.append(warning("", f"The folder {quoted(folder.name)} {text}"))
    if not scans:
        raise InputError(
            f"{root} holds no folder whose name fits `scans.pattern` of the recipe "
            f"({recipe.scans.pattern})."
        )
    return scans


def _masks(study: Path, recipe: Recipe, findings: list[Finding]) -> list[_Mask]:
    """Return the masks whose names fit the recipe; report the others."""
    masks: list[_Mask] = []
    root = study.resolve()
    places = [(name, False) for name in recipe.masks.folder]
    places += [(name, True) for name in recipe.masks.test]
    for folder_name, for_testing in places:
        folder = named_below(study, folder_name)
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
            if not is_regular(path) or not _may_be_a_mask(path):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                findings.append(_about_link(path))
            elif mask := _mask(path, recipe, for_testing=for_testing):
                masks.append(mask)
            else:
                text = "its name fits neither `masks.pattern` nor `masks.segmentation`."
                findings.append(_belongs_to_none(path, text))
    return masks


def _left_out(
    study: Path, recipe: Recipe, known: set[Path]
) -> Iterator[tuple[str, str]]:
    """Yield the files in the recipe's folders that belong to no case, and why (R3)."""
    for name in (recipe.scans.folder, *recipe.masks.folder, *recipe.masks.test):
        for file in files_below(named_below(study, name), known):
            kind = "link" if is_link(file) else "file"
            yield file.relative_to(study).as_posix(), f"{kind} of no case"


def _belongs_to_none(mask: Path, why: str) -> Finding:
    return warning("K21", f"The mask {quoted(mask.name)} belongs to no scan: {why}")


def _is_pooled(link: Path, study: Path, taken: set[Path]) -> bool:
    """Whether a link leads to a folder of the study that is no other scan."""
    scans, target = link.parent.resolve(), link.resolve()
    shared = target.is_relative_to(scans) or scans.is_relative_to(target)
    return target.is_relative_to(study.resolve()) and not shared | (target in taken)


def _about_link(path: Path) -> Finding:
    """Report a link that was left out: its target is not part of the study (F01)."""
    kind = "a file outside the study"
    if path.is_dir():
        kind = "a folder outside the study, or of another scan"
    return warning(
        "F01",
        f"{quoted(path.name)} was left out: it is a link to {kind}, and such links are "
        "not followed. Put a copy in its place.",
    )


def _may_be_a_mask(path: Path) -> bool:
    return is_mask_file(path.name) or is_surface(path.name) or may_be_drawn(path)


def _mask(path: Path, recipe: Recipe, *, for_testing: bool) -> _Mask | None:
    surface = is_surface(path.name)
    if is_segmentation(path.name) or not (surface or is_mask_file(path.name)):
        match = _matched(recipe.masks.segmentation, path.name, re.IGNORECASE)
        if match:
            file = MaskFile(path, None, "", Role.SEGMENTATION)
            return _Mask(file, match.groupdict(), for_testing)
    pattern = recipe.masks.pattern
    stem = path.stem if surface else mask_stem(path.name)
    match = _matched(pattern, stem) or _matched(pattern, path.name)
    if not match:
        return None
    groups = match.groupdict()
    letter = (groups.get("side") or "").casefold()
    side = SIDE_WORDS.get(letter, "")
    role = Role.SURFACE if surface else Role.MASK
    return _Mask(MaskFile(path, groups["structure"], side, role), groups, for_testing)


def _matched(pattern: str, name: str, flags: int = 0) -> re.Match[str] | None:
    """Match a name, however its accents and those of the pattern are stored."""
    return match_name(composed(pattern), composed(name), flags)


def _belong_together(
    scan: Mapping[str, str | None], mask: Mapping[str, str | None]
) -> bool:
    common = (set(scan) & set(mask)) - _OWN_GROUPS
    return all(comparable(scan[name]) == comparable(mask[name]) for name in common)


def _case(scan: _Scan, masks: list[_Mask], recipe: Recipe) -> CasePlan:
    findings = []
    try:
        case_id = recipe.case_id(scan.groups)
    except (BridgeError, ValueError) as error:
        case_id = f"case-{comparable(scan.groups.get('index'))}"
        code = error.code if isinstance(error, BridgeError) else "F02"
        findings.append(refusal(code, str(error)))
    roles = {mask.for_testing for mask in masks}
    if len(roles) > 1:
        text = "The scan has masks for training and masks for testing: move all of"
        findings.append(refusal("K21", f"{text} them to one of the two folders."))
    if not masks:
        findings.append(Finding("", Outcome.ACCEPTED, NO_MASK))
    code_group = scan.groups.get("code")
    return CasePlan(
        case_id=case_id,
        scan=ScanFiles(scan.folder),
        masks=tuple(mask.file for mask in masks),
        split="train" if roles == {False} else "test",
        patient=comparable(code_group) if code_group else case_id,
        findings=tuple(findings),
    )


def _with_lost_masks(plan: CasePlan, scan: _Scan, orphans: list[_Mask]) -> CasePlan:
    """Refuse a scan whose masks carry its number, but another patient's code."""
    index = comparable(scan.groups.get("index"))
    lost = [mask for mask in orphans if comparable(mask.groups.get("index")) == index]
    if not lost:
        return plan
    names = ", ".join(quoted(mask.file.path.name) for mask in lost[:3])
    finding = refusal(
        "K17",
        f"Masks with this scan's number carry another code ({names}): rename them or "
        "the scan's folder.",
    )
    return plan.with_findings(finding)
