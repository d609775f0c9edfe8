"""The channels of the images of a dataset: their names, and which series each one is.

A recipe says it, ``dataset.json`` carries it to prediction. A dataset with one channel
has none of the entries for several.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.quoting import quoted
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.key_texts import describe_keys, one_or_several

if TYPE_CHECKING:
    from nnunet_bridge.formats.dicom.options import SeriesOptions

SERIES, RESAMPLED = "channel_series", "resample_channels"
"""Entries of ``dataset.json`` of a dataset with several channels."""

_DIXON = {
    "water w": "W WATER DIXON_W",
    "fat f": "F FAT DIXON_F",
    "in ip inphase": "IP IN IN_PHASE INPHASE DIXON_IN",
    "opposed opp op out oop opposedphase outphase oppphase": (
        "OP OPP OUT OOP OPP_PHASE OUT_PHASE OPPOSED_PHASE"
    ),
}
"""Names of channels -> words of *Image Type* of a Dixon scan (PS3.3 and vendors)."""


def _of_no_patient(series: str) -> str:
    if re.fullmatch(r"[0-9]+(\.[0-9]+)+", series):
        text = "is the UID of one patient's series; write it into the case table"
        raise ValueError(text)
    return series


def _as_several(value: Any) -> Any:  # noqa: ANN401 - pydantic judges it next
    return (value,) if isinstance(value, str) else value


_Text: TypeAlias = Annotated[str, Field(max_length=100)]


class ChannelSeries(BaseModel):
    """``[channels.NAME]``: the series that is a channel, among those of a folder."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra=describe_keys
    )

    series: Annotated[_Text, AfterValidator(_of_no_patient)] | None = None
    """Number or description of the series."""

    image_type: Annotated[
        tuple[_Text, ...], BeforeValidator(_as_several), one_or_several("string")
    ] = ()
    """A word of DICOM's *Image Type*, or several."""

    echo: int | None = None
    """Echo number, as in `[scans]`."""

    echo_time_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Echo time in ms."""

    repetition: _Text | None = None
    """Which of several acquisitions, as in `[scans]`."""


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of an image, in the order in which nnU-Net reads them."""

    names: tuple[str, ...]
    series: Mapping[str, ChannelSeries] = field(default_factory=dict)
    resample: bool = False
    """Whether channels on another grid are interpolated onto that of the first."""

    @classmethod
    def described_by(cls, description: JsonObject) -> Channels:
        """Return the channels of a ``dataset.json``.

        Raises `InputError` if it names none, or their series are not as we write them.
        """
        try:
            numbered = {int(n): str(v) for n, v in description["channel_names"].items()}
            series = {
                str(name): ChannelSeries.model_validate(own)
                for name, own in description.get(SERIES, {}).items()
            }
        except (KeyError, AttributeError, ValueError) as error:
            wrong = f"(`channel_names`), or wrong series of them (`{SERIES}`)."
            raise InputError(f"dataset.json names no channels {wrong}") from error
        names = tuple(numbered[number] for number in sorted(numbered))
        return cls(names, series, bool(description.get(RESAMPLED)))

    def description(self) -> JsonObject:
        """Return the entries of ``dataset.json`` about the channels."""
        entries: JsonObject = {
            "channel_names": {str(n): name for n, name in enumerate(self.names)}
        }
        if self.series:
            entries[SERIES] = {
                name: own.model_dump(mode="json", exclude_defaults=True)
                for name, own in self.series.items()
            }
        return entries | ({RESAMPLED: True} if self.resample else {})

    def index(self, name: str | None) -> int:
        """Return the place of a channel; the first if no name is given.

        Raises `InputError` if there is no such channel.
        """
        if name is None:
            return 0
        places = [n for n, own in enumerate(self.names) if own.lower() == name.lower()]
        if not places:
            known = ", ".join(self.names)
            raise InputError(f"There is no channel {quoted(name)}; there is {known}.")
        return places[0]

    def chosen_by(self, recipe: Channels | None) -> Channels:
        """Return these channels with the choices of a recipe that names the same.

        Raises `InputError` if it names others.
        """
        if recipe is None or len(recipe.names) == 1:
            return self
        if recipe.names != self.names:
            ours, theirs = ", ".join(self.names), ", ".join(recipe.names)
            text = f"The model reads the channels {ours}, but the recipe has {theirs}."
            raise InputError(text, code="D17")
        return recipe

    def options(
        self, name: str, options: SeriesOptions, *, alone: bool
    ) -> SeriesOptions:
        """Return the options of the series of a channel.

        Without a choice of its own, a channel is found by its name: the words of
        *Image Type* that Dixon scans use for it, or the name itself. `alone`: no other
        channel is read from the same folder, so nothing has to be told apart.
        """
        series = self.series.get(name)
        own = series.model_dump(exclude_defaults=True) if series else {}
        if not own and not alone:
            own["image_type"] = words_of_channel(name)
        return replace(options, **own, channel=name)


def words_of_channel(name: str) -> tuple[str, ...]:
    """Return the words of *Image Type* or description that mean a channel.

    Examples
    --------
    >>> words_of_channel("Fat"), words_of_channel("T2")
    (('F', 'FAT', 'DIXON_F'), ('T2',))
    """
    plain = re.sub(r"[\W_]+", "", name).casefold()
    known = (words for names, words in _DIXON.items() if plain in names.split())
    return tuple(next(known, name.upper()).split())
