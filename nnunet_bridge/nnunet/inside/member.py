"""One configuration of a model: its networks, preprocessing and resampling."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK
import torch
from nnunetv2.inference import predict_from_raw_data as nnunet
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from nnunet_bridge.nnunet.estimates import PlannedMember
from nnunet_bridge.nnunet.inside.body import Body
from nnunet_bridge.nnunet.inside.converted import Converted, converted, smallest_step
from nnunet_bridge.nnunet.inside.cubic import images_by_axis
from nnunet_bridge.nnunet.inside.label_planes import labels_of
from nnunet_bridge.nnunet.inside.overlaps import Overlaps
from nnunet_bridge.nnunet.inside.resampling import Resampled, Resampling
from nnunet_bridge.nnunet.inside.safety import json_read_by
from nnunet_bridge.nnunet.inside.sides import mirrored_in_prediction
from nnunet_bridge.nnunet.inside.sliding import Manner, Networks, Sweep
from nnunet_bridge.nnunet.models import judged_texts


@dataclass(frozen=True, slots=True)
class Cropped:
    """The place of the part that nnU-Net predicts in the whole image."""

    whole: tuple[int, int, int]
    box: tuple[tuple[int, int], ...]
    """First voxel and the one behind the last, of every axis."""

    transpose_backward: tuple[int, int, int]
    """From nnU-Net's order of the axes to that of the file."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the part."""
        depth, height, width = (end - begin for begin, end in self.box)
        return depth, height, width

    def put_back(self, labels: Iterator[npt.NDArray[np.uint8]]) -> Any:  # noqa: ANN401 - nnU-Net's writers take it
        """Return the labelmap of the whole image, from the planes of the part."""
        whole = np.zeros(self.whole, dtype=np.uint8)
        (first, _), *in_plane = self.box
        rows, columns = (slice(begin, end) for begin, end in in_plane)
        for at, plane in enumerate(labels, start=first):
            whole[at, rows, columns] = plane
        return whole.transpose(self.transpose_backward)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image, preprocessed for a network."""

    volume: torch.Tensor  # (channels, Z, Y, X) float32
    cropped: Cropped
    spacing_mm: tuple[float, float, float]
    """Spacing of the image, in nnU-Net's order of the axes."""

    properties: dict[str, Any]  # facts of the file for nnU-Net's writers


class Member:
    """The folds of one configuration, loaded and built by nnU-Net."""

    def __init__(
        self,
        model_dir: Path,
        folds: Sequence[str],
        device: torch.device,
        trusted: str = "",
    ) -> None:
        predictor = nnunet.nnUNetPredictor(
            perform_everything_on_device=device.type == "cuda", device=device
        )
        chosen = tuple(fold if fold == "all" else int(fold) for fold in folds)
        texts = judged_texts(model_dir, trusted)
        with json_read_by(nnunet, lambda file: texts[file.name]):
            predictor.initialize_from_trained_model_folder(str(model_dir), chosen)
        self.body_only = False  # whether windows far from the body are left out
        self.plans = predictor.plans_manager
        self.configuration = predictor.configuration_manager
        self.dataset = predictor.dataset_json
        self.label_manager = predictor.label_manager
        if self.label_manager.has_regions:
            raise ValueError("Models of regions instead of labels are not supported.")
        planned, count = self.configuration.configuration, len(chosen)
        self.planned = PlannedMember.of(self.plans.plans, self.dataset, planned, count)
        self.networks = Networks(
            _networks(predictor),
            tuple(self.configuration.patch_size),
            self.label_manager.num_segmentation_heads,
            tuple(predictor.allowed_mirroring_axes or ()),
            device,
        )

    def converted(self, kept: Path) -> tuple[Converted, ...]:
        """Return its networks in OpenVINO, and free those of torch; see `converted`.

        Raises `NotConvertedError`.
        """
        channels = nnunet.determine_num_input_channels(
            self.plans, self.configuration, self.dataset
        )
        patch = self.networks.patch
        strides = self.configuration.network_arch_init_kwargs.get("strides")
        step = smallest_step(strides, patch)
        return tuple(
            converted(network.eval(), (channels, *patch), (channels, *step), kept)
            for network in self.networks.folds
        )

    def work(self, files: Sequence[Path]) -> float:
        """Return the work of the networks for an image, in any unit."""
        itk: Any = SimpleITK
        header = itk.ImageFileReader()
        header.SetFileName(str(files[0]))
        header.ReadImageInformation()
        shape, spacing_mm = header.GetSize()[::-1], header.GetSpacing()[::-1]
        step, forms = self.networks.step, 2 ** len(self.networks.mirror_axes)
        return self.planned.work(shape, spacing_mm, step, forms)

    def prepare(self, files: Sequence[Path], previous: Path | None) -> Prepared:
        """Return an image, one file a channel, as nnU-Net preprocesses it.

        Raises `ValueError` if the configuration needs `previous`, the labelmap of a
        first stage, and there is none.
        """
        stage = self.configuration.previous_stage_name
        if stage and previous is None:
            raise ValueError(f"The labelmap of {stage} is missing.")
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        with images_by_axis():
            volume, labels, properties = preprocessor.run_case(
                [str(file) for file in files],
                str(previous) if stage else None,
                self.plans,
                self.configuration if stage else _WithoutLabels(self.configuration),
                self.dataset,
            )
        if stage:
            known = self.label_manager.foreground_labels
            hints = convert_labelmap_to_one_hot(labels[0], known, volume.dtype)
            volume = np.vstack((volume, hints))
        spacing, box = properties["spacing"], properties["bbox_used_for_cropping"]
        first, second, third = (float(spacing[n]) for n in self.plans.transpose_forward)
        cropped = Cropped(
            tuple(properties["shape_before_cropping"]),
            tuple((int(begin), int(end)) for begin, end in box),
            tuple(self.plans.transpose_backward),
        )
        spacing_mm = (first, second, third)
        return Prepared(torch.from_numpy(volume), cropped, spacing_mm, properties)

    def logits(
        self,
        prepared: Prepared,
        overlaps: Overlaps,
        manner: Manner,
        progress: Callable[[float], None],
    ) -> Resampled:
        """Return the logits of the part, computed while they are taken.

        `overlaps` counts the labels of each fold, on the grid that the network sees;
        `progress` is called with the share of the windows that is done.
        """
        done = 0

        def window_done() -> None:
            nonlocal done
            done += 1
            progress(done / windows)

        networks = replace(self.networks, mirror_axes=self.mirrored(prepared))
        body = Body.of(prepared.volume) if self.body_only else None
        sweep = Sweep.over(networks, prepared.volume, manner, window_done, body)
        windows = sweep.windows
        means = _means(sweep.planes(), overlaps)
        return Resampled(
            self._resampling(prepared), means, tuple(prepared.volume.shape[1:])
        )

    def mirrored(self, prepared: Prepared) -> tuple[int, ...]:
        """Return the axes of test-time mirroring for this image."""
        direction = prepared.properties.get("sitk_stuff", {}).get("direction", ())
        return mirrored_in_prediction(
            self.networks.mirror_axes,
            self.dataset["labels"],
            direction,
            self.plans.transpose_forward,
            len(self.networks.patch),
        )

    def _resampling(self, prepared: Prepared) -> Resampling:
        """Return the way back to the grid of the cropped image."""
        seen = [float(length) for length in self.configuration.spacing]
        first, second, third = [prepared.spacing_mm[0], *seen][-3:]
        return Resampling(
            self.configuration.resampling_fn_probabilities,
            prepared.cropped.shape,
            (first, second, third),
            prepared.spacing_mm,
        )


class _WithoutLabels(nnunet.ConfigurationManager):  # type: ignore[misc]
    """A configuration for images without labels.

    nnU-Net resamples a mask of the image in their place, which nothing uses.
    """

    def __init__(self, configuration: Any) -> None:  # noqa: ANN401 - nnU-Net's own
        super().__init__(configuration.configuration)

    @property
    def resampling_fn_seg(self) -> Callable[..., npt.NDArray[np.int8]]:
        """Return a function that returns nothing of a mask."""
        return lambda *_: np.zeros(1, dtype=np.int8)


def _networks(predictor: Any) -> tuple[torch.nn.Module, ...]:  # noqa: ANN401 - nnU-Net's own
    """Return one network a fold, with the weights that nnU-Net has loaded."""
    network = getattr(predictor.network, "_orig_mod", predictor.network)
    networks = []
    for weights in predictor.list_of_parameters:
        one = copy.deepcopy(network)
        one.load_state_dict(weights, assign=True)
        networks.append(one)  # autocast keeps copies of weights that can learn only
    return tuple(networks)


def _means(
    planes: Iterator[torch.Tensor], overlaps: Overlaps
) -> Iterator[torch.Tensor]:
    """Yield the mean logits of the folds, added and divided in half as in nnU-Net."""
    for folds in planes:
        first, *others = folds
        mean = first.clone()
        for logits in others:
            mean += logits
        if others:
            mean /= len(folds)
            overlaps.add([labels_of(logits) for logits in folds])
        yield mean
