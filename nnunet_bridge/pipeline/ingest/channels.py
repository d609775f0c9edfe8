"""Read an image with all its channels, on one grid.

The channels are series of one folder, told apart by the choices of the recipe or by
their names, or files and folders of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from nnunet_bridge.core.cases import findings_of_error
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault, SecurityError
from nnunet_bridge.core.findings import Finding, Refused, refusal
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.formats.channels import Channels
from nnunet_bridge.formats.dicom import FileAccount, SeriesOptions, SeriesRefused
from nnunet_bridge.formats.dicom.zipped import is_zip
from nnunet_bridge.ops.channel_grid import placed_channel
from nnunet_bridge.ops.people import is_placeholder
from nnunet_bridge.pipeline.ingest.inputs import (
    ImageReading,
    ImageSource,
    channel_prefixes,
    joined_accounts,
    read_image,
    read_one_image,
)
from nnunet_bridge.pipeline.ingest.planned import ScanFiles

Place: TypeAlias = ScanFiles | ImageSource


def read_channels(
    image: Place, channels: Channels, options: SeriesOptions
) -> ImageReading:
    """Read an image; of several channels all, on the grid of the first.

    The image's own series wins over that of `options`.

    Raises `Refused` if a channel cannot be read, is the same image as another one, or
    is of another patient (D17), or lies on another grid (G21); with all reasons.
    """
    if len(channels.names) == 1:
        return _read(image, options)
    places = _places(image, channels, options)
    paths = [place.path for place in places]
    readings: list[ImageReading] = []
    refused: list[Finding] = []
    accounts: list[tuple[str, FileAccount]] = []
    for name, place, prefix in zip(
        channels.names, places, channel_prefixes(paths), strict=True
    ):
        alone = paths.count(place.path) == 1
        try:
            own = channels.options(name, options, alone=alone)
            reading = replace(_read(place, own), channel=name, prefix=prefix)
        except (EnvironmentFault, SecurityError):
            raise
        except BridgeError as error:
            refused += _named(findings_of_error(error), name)
            if isinstance(error, SeriesRefused):
                accounts.append((prefix, error.files))
        else:
            readings.append(reading)
            accounts.append((prefix, reading.files))
    refused += [] if refused else _not_apart(readings)
    if refused:
        raise SeriesRefused(refused, joined_accounts(accounts))
    return _on_one_grid(readings, resample=channels.resample)


def _read(place: Place, options: SeriesOptions) -> ImageReading:
    if place.series:
        options = replace(options, series=place.series)
    if is_zip(place.path):
        return read_one_image(place.path, options)
    return read_image(place.path, options, leave_out=place.others)


def _places(
    image: Place, channels: Channels, options: SeriesOptions
) -> Sequence[Place]:
    """Return the place of every channel; a folder may hold them all."""
    count, names = len(channels.names), ", ".join(channels.names)
    reads = f"{count} channels are read ({names})"
    if options.image_type is not None:
        text = f"{reads}, so `image_type` cannot choose one image: leave it out, or"
        raise Refused.because("D17", f"{text} write it into [channels.NAME].")
    places = (image, *image.more)
    if len(places) == 1 and (image.path.is_dir() or is_zip(image.path)):
        return places * count
    if len(places) != count:
        shown = ", ".join(quoted(place.path.name) for place in places)
        text = f"{reads}, but there is only {shown}: name the DICOM folder with all,"
        how = "or files whose names end in _0000, _0001, ..."
        raise Refused.because("D17", f"{text} {how}")
    return places


def _named(findings: Sequence[Finding], channel: str) -> list[Finding]:
    """Return findings that say which channel they are about."""
    what = f"Channel {channel}: "
    return [replace(one, message=what + one.message) for one in findings]


def _not_apart(readings: Sequence[ImageReading]) -> list[Finding]:
    """Refuse two channels that are the same image, or of two patients (D17)."""
    findings = []
    for number, reading in enumerate(readings):
        for other in readings[:number]:
            both = f"The channels {other.channel} and {reading.channel}"
            if _is_same(reading, other):
                text = f"{both} are the same images: the folder lacks one of them, or"
                how = "a choice in [channels.NAME] is wrong."
                findings.append(refusal("D17", f"{text} {how}"))
            elif len(_patients([reading, other])) > 1:
                text = f"{both} are of two patients (by Patient ID): name the images"
                findings.append(refusal("D17", f"{text} of one."))
    return findings


def _is_same(one: ImageReading, other: ImageReading) -> bool:
    if one.slices and other.slices:
        return not {*one.slices}.isdisjoint(other.slices)
    same = one.volume.voxels.shape == other.volume.voxels.shape
    return same and np.array_equal(one.volume.voxels, other.volume.voxels)


def _patients(readings: Sequence[ImageReading]) -> set[str]:
    found = {reading.series.patient_id for reading in readings if reading.series}
    return {patient for patient in found if not is_placeholder(patient)}


def _on_one_grid(readings: Sequence[ImageReading], *, resample: bool) -> ImageReading:
    """Return the first channel with the others on its grid, and all findings."""
    first, findings = readings[0], list(readings[0].findings)
    more, refused = [], list[Finding]()
    for reading in readings[1:]:
        new = [one for one in reading.findings if one not in first.findings]
        findings += _named(new, reading.channel)
        try:
            own: dict[str, Any] = {"name": reading.channel, "resample": resample}
            placed = placed_channel(first.volume.grid, reading.volume, **own)
        except Refused as error:
            refused += error.findings
            continue
        findings += placed.findings
        more.append(
            replace(
                reading,
                volume=placed.volume,
                placed=placed.placed,
                share_outside=placed.share_outside,
            )
        )
    if refused:
        files = joined_accounts((one.prefix, one.files) for one in readings)
        raise SeriesRefused(refused, files)
    return replace(first, findings=tuple(findings), more=tuple(more))
