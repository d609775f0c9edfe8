"""A Dixon scan: water, fat, in phase and opposed, at the same places."""

import numpy as np
from dicom_base import base, each, new_uids
from pydicom.uid import generate_uid

WORDS = {"water": "W", "fat": "F", "in": "IP", "opposed": "OP"}
OFFSET = {"water": 0, "fat": 300, "in": 600, "opposed": 900}
"""What a contrast adds to the stored values of the base stack."""


def dixon(*, names=tuple(WORDS), series="one", index=0, words=WORDS, **more):
    """Return the slices of each contrast, in ``one`` series or ``each`` its own.

    `more` goes to `dicom_base.base`, such as ``px``.
    """
    study, uid, frame = new_uids()
    found = {}
    for number, name in enumerate(names, start=6):
        own = uid if series == "one" else generate_uid()
        slices = base(uids=(study, own, frame), **more)
        added = (OFFSET[name] + index).to_bytes(2, "little")
        for ds in slices:
            stored = np.frombuffer(ds.PixelData, "<u2")
            ds.PixelData = (stored + np.frombuffer(added, "<u2")).tobytes()
        image_type = ["DERIVED", "PRIMARY", "DIXON", words[name]]
        each(slices, ImageType=image_type, SeriesDescription="t1_vibe_dixon")
        if series == "each":
            each(slices, SeriesNumber=number)
        found[name] = slices
    return found


def shuffled(contrasts, seed=0):
    """Return all slices in an order, and under names, that say nothing."""
    slices = [ds for own in contrasts.values() for ds in own]
    slices = [slices[n] for n in np.random.default_rng(seed).permutation(len(slices))]
    for number, ds in enumerate(slices, start=1):
        ds.InstanceNumber = number
    return slices
