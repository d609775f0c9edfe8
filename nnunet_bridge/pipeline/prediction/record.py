"""The record of a predicted case: what it was made from, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from nnunet_bridge.core.quality import Quality
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.formats.files import read_record, write_json
from nnunet_bridge.formats.manifest import FindingRecord, Part, RegionRecord

RECORD = "prediction.json"
"""Written last in the folder of a case: without it the case is not finished."""


class CutRecord(RegionRecord):
    """The slices that the network received."""

    asked: str = ""
    found_by: JsonObject | None = None  # the first pass


class PredictionRecord(Part):
    """``prediction.json``; see docs/reference/files.md for the fields."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    input_sha256: str = ""
    model_sha256: str = ""
    options: JsonObject = Field(default_factory=dict)
    turned: JsonObject | None = None  # how the image was turned for the network
    region: RegionRecord | None = None
    software: str = ""
    versions: JsonObject = Field(default_factory=dict)
    engine: str = "torch"  # what computed the networks: ``torch`` or ``openvino``
    model: str
    budget: str = ""
    cut: CutRecord | None = None
    cleaning: JsonObject = Field(default_factory=dict)
    volumes_mm3: dict[str, float]
    quality: Annotated[Quality, PlainSerializer(Quality.as_json)] | None = None
    """None in a record of the time before there were quality ratings."""

    findings: tuple[FindingRecord, ...] = ()
    labels_sha256: str = ""
    whole_scan_sha256: str = ""
    outputs: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, case_dir: Path) -> PredictionRecord:
        """Return the record of a case.

        Raises `InputError` if it is missing or damaged, `NewerVersionError` if a newer
        version of this package wrote it.
        """
        return read_record(case_dir / RECORD, cls, "predict again with --force")

    def write(self, case_dir: Path) -> None:
        """Write the record; whole, or not at all."""
        content = {"schema": self.schema_version, **self.as_json()}
        write_json(case_dir / RECORD, content)
