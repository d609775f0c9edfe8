"""The rows of the table, in the order in which a case goes through them."""

from race import Stage

from stages.denoising import DENOISING
from stages.dicom import DICOM
from stages.merging import MERGING
from stages.meshes import MESHES
from stages.nifti import IMAGE, LABELS
from stages.overlap import OVERLAP
from stages.ply import PLY
from stages.surfaces import SPECKLED, SURFACES

STAGES: tuple[Stage, ...] = (
    DICOM,
    IMAGE,
    LABELS,
    MERGING,
    DENOISING,
    OVERLAP,
    SURFACES,
    SPECKLED,
    MESHES,
    PLY,
)
