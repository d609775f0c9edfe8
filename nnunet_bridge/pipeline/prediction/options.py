"""What a prediction is asked for."""

from dataclasses import dataclass, field

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Side
from nnunet_bridge.formats.channels import Channels
from nnunet_bridge.formats.dicom import SeriesOptions
from nnunet_bridge.ops.region import RegionRequest
from nnunet_bridge.pipeline.models.choose import ModelRequest


@dataclass(frozen=True, slots=True)
class PredictionOptions:
    """Which model predicts which part of the images, and which files are written."""

    model: ModelRequest = field(default_factory=ModelRequest)
    device: str = "auto"
    """``auto`` (a GPU if there is one), ``cuda``, ``cpu`` or ``mps``."""

    engine: str = "auto"
    """``torch``, ``openvino`` (on a CPU), or ``auto``: OpenVINO where it is installed.
    A case that either of them finished counts as finished for ``auto``."""

    windows: str = "all"
    """``all``, or ``body``: not those more than half a patch away from the body."""

    fast: bool = False  # larger steps between the windows, and none is mirrored

    scans: SeriesOptions = field(default_factory=SeriesOptions)
    """Which images of a DICOM folder are read, and which corrections are allowed."""

    channels: Channels | None = None
    """Which series is which channel, by a recipe; None: as the model was trained."""

    region: RegionRequest = field(default_factory=RegionRequest)
    """Which slices are predicted; all of them by default."""

    clean: str = "none"
    """``none``, ``slice`` (the source report's rule), ``volume``, or ``tuned``, which
    takes for each structure the rule that was chosen for this model."""

    side: Side = Side.MERGED
    """The only side of the body that is kept; both by default."""

    meshes: bool = False  # also write a mesh of every structure
    smooth: int = 0  # iterations of Taubin smoothing of the meshes
    seg_nrrd: bool = False  # also write a segmentation for 3D Slicer
    dicom_seg: bool = False  # also write DICOM SEG; every image must be a DICOM series
    channel: str | None = None  # the one in pictures; None for the first
    force: bool = False  # predict finished cases again

    def __post_init__(self) -> None:
        """Refuse to smooth meshes that are not asked for."""
        if self.smooth and not self.meshes:
            raise UsageError("--smooth smooths meshes: give --mesh too.")

    def as_json(self) -> JsonObject:
        """Return the options that a finished case depends on."""
        options: JsonObject = {
            "clean": self.clean,
            "meshes": self.meshes,
            "seg_nrrd": self.seg_nrrd,
            "dicom_seg": self.dicom_seg,
        }
        if self.smooth:
            options["smooth"] = self.smooth
        if self.windows != "all":
            options["windows"] = self.windows
        if self.fast:
            options["fast"] = True
        if self.side:
            options["side"] = str(self.side)
        if self.channel is not None:
            options["channel"] = self.channel
        if not self.region.is_everything:
            options["region"] = self.region.describe()
        return options
