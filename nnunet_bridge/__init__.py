"""From DICOM MRI and 3D Slicer masks to nnU-Net, and to an answer: 2D or 3D?"""

__version__ = "0.1.0"
