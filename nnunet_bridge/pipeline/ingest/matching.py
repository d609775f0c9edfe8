"""Match the scans and masks of a study folder to cases, by their names.

Names are split by the named groups of the recipe's patterns. A mask belongs to a scan
if every group that both have (number and code, by convention) is equal. Nothing is
guessed, and every file that looks like a mask is either used or reported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_bridge.core.errors import BridgeError, InputError
from nnunet_bridge.core.findings import Finding, refusal, warning
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.recipe import SIDE_WORDS, Recipe
from nnunet_bridge.formats.slicer import is_mask_file, is_segmentation, mask_stem
from nnunet_bridge.ops.naming import natural_key

_OWN_GROUPS = frozenset({"structure", "side"})
"""Groups of masks that have no counterpart in the name of a scan."""


@dataclass(frozen=True, slots=True)
class MaskFile:
    """One mask file of a case."""

    path: Path
    structure: str | None
    """From the file name; None for a segmentation, whose segments have names."""

    side: str


@dataclass(frozen=True, slots=True)
class CasePlan:
    """The files of one case, before any of them is opened."""

    case_id: str
    scan_dir: Path
    masks: tuple[MaskFile, ...]
    split: str  # ``train`` or ``test``
    patient: str = field(repr=False)
    """Scans of one patient share it; written as a salted hash only."""

    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """All cases of a study, and findings about files that belong to none."""

    cases: tuple[CasePlan, ...]
    findings: tuple[Finding, ...]  # about the study as a whole


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
    """Return the cases of a study folder.

    Raises `InputError` if no scan of the folder fits the recipe.
    """
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
    plans = _without_collisions(plans)
    findings += _patients_on_both_sides(plans)
    return StudyPlan(tuple(plans), tuple(findings))


def _scans(study: Path, recipe: Recipe, findings: list[Finding]) -> list[_Scan]:
    root = study / recipe.scans.folder
    if not root.is_dir():
        there = ", ".join(quoted(p.name) for p in sorted(study.glob("*"))[:8])
        raise InputError(
            f"{study} has no folder {recipe.scans.folder!r} (`scans.folder` of the "
            f"recipe). It holds: {there or 'nothing'}."
        )
    scans = []
    for folder in sorted(root.iterdir(), key=lambda path: natural_key(path.name)):
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        if folder.is_symlink():
            findings.append(_about_link(folder))
            continue
        match = re.fullmatch(recipe.scans.pattern, folder.name)
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
        folder = study / folder_name
        if not folder.is_dir():
            continue
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
            if not path.is_file() or not is_mask_file(path.name):
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                findings.append(_about_link(path))
            elif mask := _mask(path, recipe, for_testing=for_testing):
                masks.append(mask)
            else:
                text = "its name fits neither `masks.pattern` nor `masks.segmentation`."
                findings.append(_belongs_to_none(path, text))
    return masks


def _belongs_to_none(mask: Path, why: str) -> Finding:
    return warning("K21", f"The mask {quoted(mask.name)} belongs to no scan: {why}")


def _about_link(path: Path) -> Finding:
    """Report a link that was left out: its target is not part of the study (F01)."""
    kind = "a folder" if path.is_dir() else "a file outside the study"
    return warning(
        "F01",
        f"{quoted(path.name)} was left out: it is a link to {kind}, and such links are "
        "not followed. Put a copy in its place.",
    )


def _mask(path: Path, recipe: Recipe, *, for_testing: bool) -> _Mask | None:
    if is_segmentation(path.name):
        match = re.fullmatch(recipe.masks.segmentation, path.name, re.IGNORECASE)
        if match:
            return _Mask(MaskFile(path, None, ""), match.groupdict(), for_testing)
    pattern = recipe.masks.pattern
    match = re.fullmatch(pattern, mask_stem(path.name))
    match = match or re.fullmatch(pattern, path.name)
    if not match:
        return None
    groups = match.groupdict()
    letter = (groups.get("side") or "").casefold()
    side = SIDE_WORDS.get(letter, "")
    return _Mask(MaskFile(path, groups["structure"], side), groups, for_testing)


def _belong_together(
    scan: Mapping[str, str | None], mask: Mapping[str, str | None]
) -> bool:
    common = (set(scan) & set(mask)) - _OWN_GROUPS
    return all(_key(scan[name]) == _key(mask[name]) for name in common)


def _key(value: str | None) -> str:
    """Return the form for comparisons: 06 is 6, and 9b is 9B."""
    text = (value or "").strip().casefold()
    return str(int(text)) if text.isascii() and text.isdigit() else text


def _case(scan: _Scan, masks: list[_Mask], recipe: Recipe) -> CasePlan:
    findings = []
    try:
        case_id = recipe.case_id(scan.groups)
    except (BridgeError, ValueError) as error:
        case_id = f"case-{_key(scan.groups.get('index'))}"
        code = error.code if isinstance(error, BridgeError) else "F02"
        findings.append(refusal(code, str(error)))
    roles = {mask.for_testing for mask in masks}
    if len(roles) > 1:
        text = "The scan has masks for training and masks for testing: move all of"
        findings.append(refusal("K21", f"{text} them to one of the two folders."))
    code_group = scan.groups.get("code")
    return CasePlan(
        case_id=case_id,
        scan_dir=scan.folder,
        masks=tuple(mask.file for mask in masks),
        split="train" if roles == {False} else "test",
        patient=_key(code_group) if code_group else case_id,
        findings=tuple(findings),
    )


def _with_lost_masks(plan: CasePlan, scan: _Scan, orphans: list[_Mask]) -> CasePlan:
    """Refuse a scan whose masks carry its number, but another patient's code."""
    index = _key(scan.groups.get("index"))
    lost = [mask for mask in orphans if _key(mask.groups.get("index")) == index]
    if not lost:
        return plan
    names = ", ".join(quoted(mask.file.path.name) for mask in lost[:3])
    finding = refusal(
        "K17",
        f"Masks with this scan's number carry another code ({names}): rename them or "
        "the scan's folder.",
    )
    return _with_findings(plan, finding)


def _without_collisions(plans: list[CasePlan]) -> list[CasePlan]:
    """Refuse cases that would write the same files (F02)."""
    by_name: dict[str, list[CasePlan]] = defaultdict(list)
    for plan in plans:
        by_name[plan.case_id.casefold()].append(plan)
    return [_alone(plan, by_name[plan.case_id.casefold()]) for plan in plans]


def _alone(plan: CasePlan, twins: list[CasePlan]) -> CasePlan:
    if len(twins) == 1:
        return plan
    names = " and ".join(quoted(twin.scan_dir.name) for twin in twins)
    return _with_findings(
        plan,
        refusal(
            "F02",
            f"{names} would both be case {plan.case_id}: give them different numbers, "
            "or use {code} in `dataset.case`.",
        ),
    )


def _patients_on_both_sides(plans: list[CasePlan]) -> list[Finding]:
    splits: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for plan in plans:
        splits[plan.patient][plan.split].append(plan.case_id)
    return [
        warning(
            "",
            f"{', '.join(cases['train'])} (training) and {', '.join(cases['test'])} "
            "(test) are scans of one patient: test scores will be too good.",
        )
        for cases in splits.values()
        if len(cases) > 1
    ]


def _with_findings(plan: CasePlan, *findings: Finding) -> CasePlan:
    return replace(plan, findings=(*plan.findings, *findings))
