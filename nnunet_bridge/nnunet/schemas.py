"""Schemas of the JSON files of a model, down to every name and number.

nnU-Net looks up every class in ``plans.json`` with `pydoc.locate` and calls it with the
arguments beside it, so a text file alone can run a command. Every name is therefore
compared with a list, every number with a bound, and unknown keys are refused (FAULTS
S02, S07). The lists have whole names: a module under ``dynamic_network_architectures``
also reaches everything that it imports.
"""

import json
import math
from typing import Annotated, Any, Literal, NoReturn, Self, TypeAlias, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nnunet_bridge.core.errors import SecurityError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Configuration
from nnunet_bridge.formats.channels import ChannelSeries

DATASET_NAME = "Dataset[0-9]{3}_[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
LONGEST_VALUE = 80  # most characters of a foreign value in a message
MOST_PARAMETERS = 10**9  # nnU-Net's largest plans have a few hundred million
MOST_ACTIVATIONS = 2**31  # voxels of a patch times the features of the first stage
_TOO_LARGE = frozenset(
    {
        *("greater_than", "greater_than_equal", "less_than", "less_than_equal"),
        *("too_long", "too_short", "string_too_long", "finite_number", "too_large"),
    }
)
"""pydantic's types of errors about sizes."""

Word: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,99}$")
]
Text: TypeAlias = Annotated[str, StringConstraints(max_length=100)]
KnownConfiguration: TypeAlias = Annotated[Configuration, Field(strict=False)]
Reader: TypeAlias = Literal[
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
]
Resampling: TypeAlias = Literal[
    "resample_data_or_seg_to_shape",
    "resample_torch_simple",
    "resample_torch_fornnunet",
    "no_resampling_hack",
]
Normalization: TypeAlias = Literal[
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
]
Dropout: TypeAlias = Literal[
    "torch.nn.modules.dropout.Dropout2d", "torch.nn.modules.dropout.Dropout3d"
]
Edge: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
Size: TypeAlias = Annotated[float, Field(gt=0, le=1e6)]
SpacingMm: TypeAlias = Annotated[float, Field(gt=0, le=1000)]
Count: TypeAlias = Annotated[int, Field(ge=1, le=64)]
Features: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
ReportFeatures: TypeAlias = Annotated[int, Field(ge=1, le=2048)]
Stride: TypeAlias = Annotated[int, Field(ge=1, le=8)]
Kernel: TypeAlias = Annotated[int, Field(ge=1, le=15)]
Axis: TypeAlias = Literal[0, 1, 2]
Intensity: TypeAlias = Annotated[float, Field(ge=-1e12, le=1e12)]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Order: TypeAlias = Annotated[int, Field(ge=0, le=5)]
StepCount: TypeAlias = Annotated[int, Field(ge=1, le=100_000)]
STAGES = Field(min_length=1, max_length=12)
AXES = Field(min_length=2, max_length=3)
CHANNELS = Field(min_length=1, max_length=32)

_Encoder: TypeAlias = Annotated[list[ReportFeatures], Field(min_length=2, max_length=8)]
_Decoder: TypeAlias = Annotated[list[ReportFeatures], Field(min_length=5, max_length=5)]
THREE = Field(min_length=3, max_length=3)
PAIR = Field(min_length=2, max_length=2)
_KINDS = Field(max_length=64)
_AxisLetters: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[LRPASI]{3}$", max_length=3)
]
_Channel: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}$")]
_Value: TypeAlias = Annotated[int, Field(ge=0, le=65_534)]
_Region: TypeAlias = Annotated[list[int], Field(max_length=256)]
_EchoTime: TypeAlias = Annotated[float, Field(ge=0, le=1e6)]
_Voxels: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000)]
_Figure: TypeAlias = Annotated[float, Field(ge=0, le=1e12)]
_Volume: TypeAlias = Annotated[float, Field(gt=0, le=1e12)]
_Cases: TypeAlias = Annotated[int, Field(ge=1, le=10_000_000)]


class _Strict(BaseModel):
    """Exactly these keys, exactly these types, finite numbers."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=False
    )


class _NormOptions(_Strict):
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    affine: bool = True
    momentum: Share | None = None
    track_running_stats: bool = False


class _DropoutOptions(_Strict):
    p: Share = 0.5
    inplace: bool = False


class _NonlinOptions(_Strict):
    inplace: bool = False
    negative_slope: Share = 0.01


class _Network(_Strict):
    """Arguments of the network class."""

    n_stages: Annotated[int, Field(ge=1, le=12)]
    features_per_stage: Annotated[list[Features], STAGES]
    conv_op: Literal["torch.nn.modules.conv.Conv2d", "torch.nn.modules.conv.Conv3d"]
    kernel_sizes: Annotated[list[Annotated[list[Kernel], AXES]], STAGES]
    strides: Annotated[list[Annotated[list[Stride], AXES]], STAGES]
    n_conv_per_stage: Annotated[list[Count], STAGES] | None = None
    n_blocks_per_stage: Annotated[list[Count], STAGES] | None = None
    n_conv_per_stage_decoder: Annotated[list[Count], Field(max_length=11)]
    conv_bias: bool
    norm_op: Literal[
        "torch.nn.modules.instancenorm.InstanceNorm2d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
        "torch.nn.modules.batchnorm.BatchNorm2d",
        "torch.nn.modules.batchnorm.BatchNorm3d",
    ]
    norm_op_kwargs: _NormOptions
    dropout_op: Dropout | None
    dropout_op_kwargs: _DropoutOptions | None
    nonlin: Literal[
        "torch.nn.LeakyReLU",
        "torch.nn.ReLU",
        "torch.nn.modules.activation.LeakyReLU",
        "torch.nn.modules.activation.ReLU",
    ]
    nonlin_kwargs: _NonlinOptions

    @property
    def axes(self) -> int:
        """2 or 3."""
        return 3 if self.conv_op.endswith("3d") else 2

    @property
    def convolutions(self) -> list[int]:
        """Convolutions of every stage of the encoder; a residual block has two."""
        return self.n_conv_per_stage or [2 * n for n in self.n_blocks_per_stage or []]

    @property
    def parameters(self) -> int:
        """Approximate number of weights."""
        decoder = [*self.n_conv_per_stage_decoder, 0]
        before, total = 1, 0
        for stage, features in enumerate(self.features_per_stage):
            kernel = math.prod(self.kernel_sizes[stage])
            depth = self.convolutions[stage] + decoder[stage]
            total += kernel * features * (before + features * (depth + 1))
            before = features
        return total

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        """Refuse lists of different lengths, and an absurdly large network."""
        if (self.n_conv_per_stage is None) == (self.n_blocks_per_stage is None):
            raise PydanticCustomError("odd", "convolutions or blocks, not both")
        rows = (self.features_per_stage, self.kernel_sizes, self.strides)
        lengths = {len(row) for row in (*rows, self.convolutions)}
        lengths.add(len(self.n_conv_per_stage_decoder) + 1)
        if lengths != {self.n_stages}:
            raise PydanticCustomError("odd", "its lists do not fit n_stages")
        per_axis = {len(row) for row in (*self.kernel_sizes, *self.strides)}
        if per_axis != {self.axes} or not self.norm_op.endswith(f"{self.axes}d"):
            raise PydanticCustomError("odd", "it mixes two and three dimensions")
        if self.parameters > MOST_PARAMETERS:
            raise PydanticCustomError("too_large", "a network of this size is absurd")
        return self


_Looked: TypeAlias = Literal["conv_op", "norm_op", "dropout_op", "nonlin"]


class _Architecture(_Strict):
    network_class_name: Literal[
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    ]
    arch_kwargs: _Network
    kw_requires_import: Annotated[list[_Looked], Field(alias="_kw_requires_import")]

    @model_validator(mode="after")
    def _imports_every_class_once(self) -> Self:
        if sorted(self.kw_requires_import) != sorted(get_args(_Looked)):
            raise PydanticCustomError("odd", "four classes are looked up, each once")
        return self


class _ResamplingOptions(_Strict):
    is_seg: bool = False
    order: Order = 3
    order_z: Order = 0
    force_separate_z: bool | None = None
    separate_z_anisotropy_threshold: Annotated[float, Field(gt=0, le=1000)] = 3.0
    memefficient_seg_resampling: bool = False
    mode: Literal["linear", "nearest"] = "linear"
    num_threads: Annotated[int, Field(ge=1, le=64)] = 1


class _Planned(_Strict):
    """One configuration as nnU-Net plans it."""

    data_identifier: Word
    preprocessor_name: Literal["DefaultPreprocessor"]
    batch_size: Annotated[int, Field(ge=1, le=100_000)]
    patch_size: Annotated[list[Edge], AXES]
    median_image_size_in_voxels: Annotated[list[Size], AXES]
    spacing: Annotated[list[SpacingMm], AXES]
    normalization_schemes: Annotated[list[Normalization], CHANNELS]
    use_mask_for_norm: Annotated[list[bool], CHANNELS]
    resampling_fn_data: Resampling
    resampling_fn_seg: Resampling
    resampling_fn_probabilities: Resampling
    resampling_fn_data_kwargs: _ResamplingOptions
    resampling_fn_seg_kwargs: _ResamplingOptions
    resampling_fn_probabilities_kwargs: _ResamplingOptions
    architecture: _Architecture
    batch_dice: bool
    next_stage: Literal["3d_cascade_fullres"] | None = None

    @model_validator(mode="after")
    def _patch_fits(self) -> Self:
        """Refuse a patch of other dimensions, or one that no machine holds."""
        network = self.architecture.arch_kwargs
        rows = (self.patch_size, self.median_image_size_in_voxels, self.spacing)
        if {len(row) for row in rows} != {network.axes}:
            raise PydanticCustomError("odd", "it mixes two and three dimensions")
        work = math.prod(self.patch_size) * network.features_per_stage[0]
        if work > MOST_ACTIVATIONS:
            raise PydanticCustomError("too_large", "a patch of this size is absurd")
        return self


class _Cascade(_Strict):
    """The second stage of nnU-Net's cascade."""

    inherits_from: Literal["3d_fullres"]
    previous_stage: Literal["3d_lowres"]


def _kind_of_configuration(content: Any) -> str:  # noqa: ANN401 - judged here
    return "cascade" if isinstance(content, dict) and "inherits_from" in content else ""


_PlannedOrCascade: TypeAlias = Annotated[
    Annotated[_Planned, Tag("")] | Annotated[_Cascade, Tag("cascade")],
    Discriminator(_kind_of_configuration),
]


class _Intensities(_Strict):
    max: Intensity
    mean: Intensity
    median: Intensity
    min: Intensity
    percentile_00_5: Intensity
    percentile_99_5: Intensity
    std: Annotated[float, Field(ge=0, le=1e12)]


class _Steps(_Strict):
    """Entries for our trainers."""

    epochs: StepCount
    iterations: StepCount
    validation_iterations: StepCount
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    learning_rate_fall: Share | None = None
    foreground_share: Share | None = None
    patience: StepCount | None = None
    features: _Encoder | None = None  # entry of the report's U-Net
    decoder: _Decoder | None = None  # entry of the report's ResNet34 U-Net


class PlansFile(_Strict):
    """``plans.json`` as nnU-Net 2.8 and our budgets write it."""

    dataset_name: Annotated[str, StringConstraints(pattern=rf"^{DATASET_NAME}$")]
    plans_name: Word
    original_median_spacing_after_transp: Annotated[list[SpacingMm], THREE]
    original_median_shape_after_transp: Annotated[list[Size], THREE]
    image_reader_writer: Reader
    transpose_forward: Annotated[list[Axis], THREE]
    transpose_backward: Annotated[list[Axis], THREE]
    configurations: dict[KnownConfiguration, _PlannedOrCascade]
    experiment_planner_used: Word
    label_manager: Literal["LabelManager"]
    foreground_intensity_properties_per_channel: Annotated[
        dict[_Channel, _Intensities], CHANNELS
    ]
    nnunet_bridge: dict[KnownConfiguration, _Steps] | None = None

    @model_validator(mode="after")
    def _axes_are_all_there(self) -> Self:
        for axes in (self.transpose_forward, self.transpose_backward):
            if sorted(axes) != [0, 1, 2]:
                raise PydanticCustomError("odd", "a transposition names an axis twice")
        there_and_back = [self.transpose_forward[n] for n in self.transpose_backward]
        if there_and_back != [0, 1, 2]:
            raise PydanticCustomError("odd", "transpose_backward is not the way back")
        return self


class DatasetFile(BaseModel):
    """The keys of ``dataset.json`` that prediction needs; others are left behind."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    channel_names: Annotated[dict[Annotated[str, Field(max_length=2)], Text], CHANNELS]
    labels: Annotated[dict[Text, _Value | _Region], Field(min_length=2, max_length=256)]
    numTraining: Annotated[int, Field(ge=0, le=10_000_000)]  # noqa: N815 - nnU-Net's name
    file_ending: Literal[".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".bmp", ".tif"]
    channel_series: Annotated[dict[Text, ChannelSeries], CHANNELS] | None = None
    resample_channels: bool | None = None
    regions_class_order: _Region | None = None
    overwrite_image_reader_writer: Reader | None = None

    @model_validator(mode="after")
    def _names_can_be_read(self) -> Self:
        names = [*self.labels, *self.channel_names.values()]
        if not all(name.isprintable() for name in names):
            raise PydanticCustomError("odd", "a name holds unprintable characters")
        return self


class TrainingRange(_Strict):
    """Smallest and largest voxel spacing (mm) and shape of the cases it learnt from."""

    cases: _Cases
    smallest_spacing_mm: Annotated[list[SpacingMm], THREE]
    largest_spacing_mm: Annotated[list[SpacingMm], THREE]
    smallest_shape: Annotated[list[_Voxels], THREE]
    largest_shape: Annotated[list[_Voxels], THREE]
    orientations: Annotated[list[_AxisLetters], _KINDS] | None = None
    """Where i, j and k run to, such as ``LPS``; each that occurred."""

    modalities: Annotated[list[Word], _KINDS] | None = None
    image_types: Annotated[list[Annotated[list[Word], _KINDS]], _KINDS] | None = None
    """The words of *Image Type* that tell of contrast; each set that occurred."""

    echo_times_ms: Annotated[list[_EchoTime], PAIR] | None = None
    """Smallest and largest."""

    @model_serializer(mode="wrap")
    def _only_what_is_known(self, dump: SerializerFunctionWrapHandler) -> JsonObject:
        content: JsonObject = dump(self)
        return {key: value for key, value in content.items() if value is not None}


class _Spread(_Strict):
    """Five figures that ascend."""

    least: _Figure
    low: _Figure
    median: _Figure
    high: _Figure
    most: _Figure

    @model_validator(mode="after")
    def _ascends(self) -> Self:
        figures = [self.least, self.low, self.median, self.high, self.most]
        if sorted(figures) != figures:
            raise PydanticCustomError("odd", "the figures of a spread must ascend")
        return self


class _PositiveSpread(_Spread):
    """Spread of volumes, on a logarithmic scale."""

    least: _Volume


class _StructureRange(_Strict):
    cases: _Cases
    at_border: Annotated[int, Field(ge=0, le=10_000_000)]
    volume_mm3: _PositiveSpread
    pieces: _Spread
    asymmetry: _Spread | None
    step_mm: _PositiveSpread | None = None


class TrainingStructuresCard(_Strict):
    """Statistics of every structure in the training labels, without single cases."""

    cases: _Cases
    structures: Annotated[dict[Text, _StructureRange], Field(max_length=256)]
    edges: _PositiveSpread | None = None


class _CardFold(_Strict):
    mean_dice: Share | None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Card(_Strict):
    """``model.json``: the description of a packed model."""

    format: Literal[1]
    software: Text
    budget: Text
    folds: Annotated[dict[Text, _CardFold], Field(min_length=1, max_length=32)]
    training_range: TrainingRange | None
    training_structures: TrainingStructuresCard | None = None
    """Absent in cards of version 0.1."""


def refuse(reason: str, code: str) -> NoReturn:
    """Raise the refusal of a model."""
    raise SecurityError(f"The model is refused: {reason}.", code=code)


_Model = TypeVar("_Model", bound=BaseModel)


def validated(kind: type[_Model], content: Any, file: str) -> _Model:  # noqa: ANN401 - judged here
    """Return `content` as a value of `kind`, or refuse it with its first fault.

    Raises
    ------
    SecurityError
        S02: an unknown key or word, or another type. S07: an absurd number. S08: nested
        too deep.
    """
    try:
        return kind.model_validate(content)
    except RecursionError:
        refuse(f"{file} is nested too deep", "S08")
    except ValidationError as error:
        complaint = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in complaint["loc"] if part)
        value = json.dumps(complaint["input"], default=str)[:LONGEST_VALUE]
        reason = complaint["msg"].removeprefix("Value error, ")
        refuse(
            f"{file}, {place or 'as a whole'}: {quoted(value)} is not what nnU-Net "
            f"writes there ({reason})",
            "S07" if complaint["type"] in _TOO_LARGE else "S02",
        )
