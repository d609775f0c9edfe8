"""Let a training learn from cases in which some structures were not drawn.

The trainer stays the one that was asked for, nnU-Net's own included, so that plain
nnU-Net finds it when it predicts; its loss, loaders and validation are wrapped. A
training whose cases are all complete is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.evaluation.evaluate_predictions import save_summary_json
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.partly import CasesPartlyDrawn
from nnunet_bridge.formats.folders import work_folder
from nnunet_bridge.formats.labels_file import (
    DATASET_FILE,
    PARTLY_DRAWN,
    read_label_table,
)
from nnunet_bridge.formats.nifti import read_labelmap, write_labelmap
from nnunet_bridge.nnunet.inside.partial_loss import Coding, DiceForm, PartialLoss
from nnunet_bridge.nnunet.names import FILE_ENDING
from nnunet_bridge.nnunet.sides import has_sided_labels, swapped_labels
from nnunet_bridge.nnunet.trainers.report_augmentation import FlipLeftRight
from nnunet_bridge.nnunet.trainers.report_losses import ReportLoss

_FILES = ("reference_file", "prediction_file")  # of a case in nnU-Net's summary
_LARGEST_CODE = np.iinfo(np.int16).max  # nnU-Net's targets are int16


class Drawn:
    """The sets of drawn structures of the training and validation cases."""

    def __init__(self, labels: Mapping[str, int], partly: CasesPartlyDrawn) -> None:
        names = labels.keys() - {"background", "ignore"}
        own = {}  # case -> sets on the side that was drawn, and beyond the midline
        for case, one in partly.items():
            beyond = names - one.on_both if one.midline else frozenset[str]()
            both = one.not_drawn, one.not_drawn | beyond
            own[case] = [frozenset(labels[name] for name in side) for side in both]
        self.partly = partly
        sided = has_sided_labels(labels)
        self.swaps: dict[int, int] = (swapped_labels(labels) or {}) if sided else {}
        every = {values for both in own.values() for values in both}
        self.sets = sorted(every.union(map(self._mirrored, every)), key=sorted)
        sets = (frozenset[int](), *self.sets)
        has_ignore = "ignore" in labels
        self.coding = Coding(len(labels) - has_ignore, has_ignore, sets)
        if self.coding.base * len(sets) > _LARGEST_CODE:
            raise InputError(
                f"The cases have {len(sets)} different sets of drawn structures, too "
                f"many for {len(labels)} labels: draw the same in more cases.",
                code="N12",
            )
        self.codes_of = {case: [*map(self._code, both)] for case, both in own.items()}

    def _code(self, values: frozenset[int]) -> int:
        """Return the number of a set; 0 is of complete cases, even for an empty set."""
        return 1 + self.sets.index(values)

    def _mirrored(self, values: frozenset[int]) -> frozenset[int]:
        return frozenset(self.swaps.get(value, value) for value in values)

    def coded_swaps(self) -> dict[int, int]:
        """Return what a flip makes of every coded label, where labels have sides."""
        base, sets = self.coding.base, self.coding.sets
        swaps = {}
        for number, values in enumerate(sets):
            other = self._code(self._mirrored(values)) if number else 0
            for label in range(base):
                to = self.swaps.get(label, label) + base * other
                if to != label + base * number:
                    swaps[label + base * number] = to
        return swaps


def learn_from_partly_drawn(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Wrap a trainer if some of its cases are partly drawn.

    Raises `InputError` for regions, and for a loss that is none of ours or nnU-Net's.
    """
    if PARTLY_DRAWN not in trainer.dataset_json:
        return
    file = Path(trainer.preprocessed_dataset_folder_base, DATASET_FILE)
    table = read_label_table(file)
    folder, every = Path(trainer.preprocessed_dataset_folder), table.partly_drawn
    partly = {c: one for c, one in every.items() if (folder / f"{c}.pkl").exists()}
    if not partly:
        return
    drawn = Drawn(trainer.dataset_json["labels"], partly)
    names = sorted({name for one in partly.values() for name in one.not_drawn})
    sides = sum(one.midline is not None for one in partly.values())
    trainer.print_to_log_file(
        f"Partly drawn: {len(partly)} cases (without {', '.join(names) or 'none'}; "
        f"{sides} of one side)."
    )
    _wrap_loss(trainer, drawn.coding)
    _wrap_loaders(trainer, drawn)
    trainer.validation_step = lambda batch: _validation_step(trainer, batch)
    _wrap_validation(trainer, table)


def _wrap_loss(trainer: Any, coding: Coding) -> None:  # noqa: ANN401 - nnU-Net's types
    build = trainer._build_loss  # noqa: SLF001 - nnU-Net's own way

    def build_partial() -> Any:  # noqa: ANN401 - nnU-Net's types
        theirs = build()
        deep = isinstance(theirs, DeepSupervisionWrapper)
        form = _form_of(theirs.loss if deep else theirs, trainer)
        loss = PartialLoss(coding, *form)
        if not deep:
            return loss
        theirs.loss = loss
        return theirs

    trainer._build_loss = build_partial  # noqa: SLF001 - likewise


def _form_of(loss: Any, trainer: Any) -> tuple[DiceForm, str]:  # noqa: ANN401 - nnU-Net's types
    """Return the form of a loss; refuse one that is not known."""
    if isinstance(loss, ReportLoss):
        form = DiceForm(batch=True, background=True, ddp=trainer.is_ddp)
        return form, "focal" if loss.with_focal else ""
    if type(loss).__name__ != "DC_and_CE_loss":
        raise InputError(
            f"The trainer {type(trainer).__name__} has a loss of its own "
            f"({type(loss).__name__}), which cannot learn from partly drawn cases: "
            "choose another model.",
            code="N12",
        )
    batch = trainer.configuration_manager.batch_dice
    return DiceForm(batch=batch, background=False, ddp=trainer.is_ddp), "ce"


class _Cases:
    """A dataset that remembers the case that was loaded last."""

    def __init__(self, data: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        self.data, self.identifiers, self.current = data, data.identifiers, ""
        self.loaded: tuple[Any, ...] = ()
        self.lowest: list[int] = []  # corner of the patch in the preprocessed case

    def load_case(self, case: str) -> Any:  # noqa: ANN401 - nnU-Net's types
        """Load a case as nnU-Net does."""
        self.current, self.loaded = case, self.data.load_case(case)
        return self.loaded

    def affine(self, transpose: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return (4, 4) from the indices of the patch to LPS+ mm.

        The axes of the array were read as k, j, i, transposed, cropped and resampled.
        """
        facts, shape = self.loaded[3], self.loaded[0].shape[1:]
        place = facts["sitk_stuff"]
        axes = np.reshape(place["direction"], (3, 3)) * place["spacing"]
        axes = axes[:, [2 - axis for axis in transpose]]
        steps = np.divide(facts["shape_after_cropping_and_before_resampling"], shape)
        first = np.array([low for low, _ in facts["bbox_used_for_cropping"]])
        affine = np.eye(4)
        affine[:3, :3] = axes * steps
        centre = (np.array(self.lowest) + 0.5) * steps - 0.5 + first
        affine[:3, 3] = axes @ centre + place["origin"]
        return affine


class _Coded:
    """Writes the set of a case into the patch, before all other transforms."""

    def __init__(
        self,
        cases: _Cases,
        drawn: Drawn,
        transforms: Any,  # noqa: ANN401 - nnU-Net's types
        transpose: Sequence[int],
    ) -> None:
        self.cases, self.drawn, self.transforms = cases, drawn, transforms
        self.transpose = transpose

    def __call__(self, *, segmentation: torch.Tensor, **data: Any) -> Any:  # noqa: ANN401 - nnU-Net's types
        """Return the transformed patch; its first channel of labels is coded."""
        case, base = self.cases.current, self.drawn.coding.base
        if case in self.drawn.codes_of:
            here, beyond = self.drawn.codes_of[case]
            code = torch.full(segmentation.shape[1:], here * base)
            partly = self.drawn.partly[case]
            if partly.midline is not None:
                place = self.cases.affine(self.transpose), self._shape(code)
                far = partly.midline.beyond(partly.side, *place).reshape(code.shape)
                code[torch.from_numpy(far)] = beyond * base
            segmentation = segmentation.clone()
            inside = segmentation[0] >= 0  # -1 lies outside
            segmentation[0][inside] += code[inside].to(segmentation.dtype)
        return self.transforms(segmentation=segmentation, **data)

    @staticmethod
    def _shape(patch: torch.Tensor) -> tuple[int, ...]:
        """Return the shape in three dimensions; a patch of a slice has two."""
        return (1,) * (3 - patch.ndim) + tuple(patch.shape)


class DrawnLoader(nnUNetDataLoader):  # type: ignore[misc]
    """nnU-Net's loader, whose targets say which structures were drawn."""

    def __init__(
        self,
        drawn: Drawn,
        transpose: Sequence[int],
        data: Any,  # noqa: ANN401 - nnU-Net's types
        *places: Any,  # noqa: ANN401 - likewise
        **options: Any,  # noqa: ANN401 - likewise
    ) -> None:
        super().__init__(data, *places, **options)
        self._data = _Cases(data)
        self.transforms: Any = _Coded(self._data, drawn, self.transforms, transpose)

    def get_bbox(self, *places: Any, **options: Any) -> Any:  # noqa: ANN401 - nnU-Net's types
        """Choose a patch as nnU-Net does, and remember its corner."""
        found = super().get_bbox(*places, **options)
        self._data.lowest = [int(low) for low in found[0]]
        return found


def _wrap_loaders(trainer: Any, drawn: Drawn) -> None:  # noqa: ANN401 - nnU-Net's types
    load = trainer.get_dataloaders
    flip = getattr(trainer, "left_right_flip", None)

    def load_drawn() -> Any:  # noqa: ANN401 - nnU-Net's types
        transpose = trainer.plans_manager.transpose_forward
        loader = partial(DrawnLoader, drawn, transpose)
        return _with(_module(), "nnUNetDataLoader", loader, load)

    def flip_coded(dimensions: int) -> FlipLeftRight | None:
        theirs: FlipLeftRight | None = flip and flip(dimensions)
        if theirs is not None and theirs.swaps:
            theirs.swaps = drawn.coded_swaps()
        return theirs

    trainer.get_dataloaders = load_drawn
    if flip is not None:
        trainer.left_right_flip = flip_coded


def _validation_step(trainer: Any, batch: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - nnU-Net's types
    """Return loss and counts of a batch, as nnU-Net collects them for its Dice."""
    device = trainer.device
    data, target = batch["data"].to(device), batch["target"]
    deep = isinstance(target, list)
    target = [t.to(device) for t in target] if deep else target.to(device)
    cuda = device.type == "cuda"
    with torch.autocast("cuda") if cuda else nullcontext():
        output = trainer.network(data)
        loss = trainer.loss(output, target)
    inner: PartialLoss = trainer.loss.loss if deep else trainer.loss
    if deep:  # the finest output
        output, target = output[0], target[0]
    names = ("tp_hard", "fp_hard", "fn_hard")
    counts = zip(names, inner.hard_counts(output, target), strict=True)
    return {
        "loss": loss.detach().cpu().numpy(),
        **{name: count[1:].cpu().numpy() for name, count in counts},
    }


def _wrap_validation(trainer: Any, table: LabelTable) -> None:  # noqa: ANN401 - nnU-Net\'s types
    """Leave out of ``summary.json`` what cannot be judged."""
    validate = trainer.perform_actual_validation

    def validate_drawn(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - nnU-Net's types
        module = _module()
        compute = module.compute_metrics_on_folder

        def compute_drawn(*places: Any, **how: Any) -> Any:  # noqa: ANN401 - nnU-Net's types
            folders, (summary, *more) = [*map(Path, places[:2])], places[2:]
            with work_folder(folders[1].parent, "judged") as work:
                copies = judged_copies(folders, table, work)
                result = compute(*map(str, copies), None, *more, **how)
            for case in result["metric_per_case"]:
                for key, folder in zip(_FILES, folders, strict=True):
                    case[key] = str(folder / Path(case[key]).name)
            save_summary_json(result, summary)
            return result

        do = partial(validate, *arguments, **options)
        _with(module, "compute_metrics_on_folder", compute_drawn, do)

    trainer.perform_actual_validation = validate_drawn


def judged_copies(
    folders: Sequence[Path], table: LabelTable, work: Path
) -> tuple[Path, ...]:
    """Return folders of references and predictions without what cannot be judged.

    A structure that was not drawn is then in neither, and has no Dice in nnU-Net's
    ``summary.json``.
    """
    copies = tuple(work / name for name in _FILES)
    for folder, copy in zip(folders, copies, strict=True):
        copy.mkdir()
        for file in folders[1].glob(f"*{FILE_ENDING}"):
            own, case_id = folder / file.name, file.name.removesuffix(FILE_ENDING)
            labelmap = read_labelmap(own, table).judged(case_id)
            write_labelmap(copy / file.name, labelmap)
    return copies


def _module() -> Any:  # noqa: ANN401 - nnU-Net's own
    return import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")


def _with(module: Any, name: str, value: Any, do: Callable[[], Any]) -> Any:  # noqa: ANN401 - nnU-Net's types
    """Return what `do` returns while a name of nnU-Net's module means `value`."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        return do()
    finally:
        setattr(module, name, before)
