"""Read an image with all its channels, on one grid.

The channels are series of one folder, told apart by the choices of the recipe or by
their names, or files and folders of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from nnunet_bridge.core.cases import findings_of_error
from nnunet_bridge.core.errors import BridgeError, EnvironmentFault
from nnunet_bridge.core.findings import Finding, Outcome, Refused, refusal, worst
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
        (name,), chosen = channels.names, bool(channels.series)
        own = channels.options(name, options, alone=True) if chosen else options
        return _read(image, own)
    places = _places(image, channels, options)
    paths = [place.path for place in places]
    readings: list[ImageReading] = []
    about: dict[str, Sequence[Finding]] = {}
    accounts: list[tuple[str, FileAccount]] = []
    prefixes = channel_prefixes(paths)
    for name, place, prefix in zip(channels.names, places, prefixes, strict=True):
        chosen = bool(image.more and place.series)  # by its own row of the table
        alone, account = chosen or paths.count(place.path) == 1, FileAccount()
        try:
            reading = _read(place, channels.options(name, options, alone=alone))
        except EnvironmentFault:
            raise
        except BridgeError as error:
            about[name] = findings_of_error(error)
            account = error.files if isinstance(error, SeriesRefused) else account
        else:
            about[name], account = reading.findings, reading.files
            readings.append(replace(reading, channel=name, prefix=prefix))
        accounts.append((prefix, account))
    findings, more = list(_joined(about)), list[ImageReading]()
    if len(readings) == len(places):
        findings += _not_apart(readings)
        more = list(_on_the_first(readings, findings, resample=channels.resample))
    if worst(findings) is Outcome.REFUSED:
        raise SeriesRefused(findings, joined_accounts(accounts))
    return replace(readings[0], findings=tuple(findings), more=tuple(more))


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


def _joined(about: Mapping[str, Sequence[Finding]]) -> Iterator[Finding]:
    """Yield the findings of all channels once, the others with their channel."""
    shared = set[Finding].intersection(*map(set, about.values()))
    yield from (one for one in next(iter(about.values())) if one in shared)
    for name, own in about.items():
        for one in (one for one in own if one not in shared):
            yield replace(one, message=f"Channel {name}: {one.message}")


def _not_apart(readings: Sequence[ImageReading]) -> list[Finding]:
    """Refuse two channels that are the same image, or of two patients (D17)."""
    findings = []
    for number, reading in enumerate(readings):
        for other in readings[:number]:
            both = f"The channels {other.channel} and {reading.channel}"
            if np.array_equal(reading.volume.voxels, other.volume.voxels):
                text = f"{both} are the same images: the folder lacks one of them, or"
                how = "a choice in [channels.NAME] is wrong."
                findings.append(refusal("D17", f"{text} {how}"))
            elif len(_patients([reading, other])) > 1:
                text = f"{both} are of two patients (by Patient ID): name the images"
                findings.append(refusal("D17", f"{text} of one."))
    return findings


def _patients(readings: Sequence[ImageReading]) -> set[str]:
    found = {reading.series.patient_id for reading in readings if reading.series}
    return {patient for patient in found if not is_placeholder(patient)}


def _on_the_first(
    readings: Sequence[ImageReading], findings: list[Finding], *, resample: bool
) -> Iterator[ImageReading]:
    """Yield the further channels on the grid of the first; add what was found."""
    first = readings[0].volume.grid
    for reading in readings[1:]:
        try:
            found = placed_channel(
                first, reading.volume, reading.channel, resample=resample
            )
        except Refused as error:
            findings += error.findings
            continue
        findings += found.findings
        share = found.share_outside
        yield replace(
            reading, volume=found.volume, placed=found.placed, share_outside=share
        )
