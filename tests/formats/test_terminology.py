"""Codes of structures, against the list of concepts that pydicom takes from DICOM."""

import pytest
from pydicom.sr._concepts_dict import concepts

from nnunet_bridge.formats.terminology import (
    ANATOMY,
    KINDS,
    SCHEME,
    SIDE_CONCEPTS,
    TISSUE,
    find_terms,
)

OURS = [*KINDS.values(), *SIDE_CONCEPTS.values(), ANATOMY, TISSUE]


@pytest.mark.parametrize("concept", OURS, ids=lambda concept: concept.meaning)
def test_every_code_is_one_that_dicom_lists(concept):
    listed = [
        meaning
        for codes in concepts[SCHEME].values()
        for code, (meaning, _) in codes.items()
        if code == concept.value
    ]

    assert concept.meaning in listed


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("tibia", "Tibia", None),
        ("femur_left", "Femur", "Left"),
        ("right fibula", "Fibula", "Right"),
        ("Hip-bone R", "Pelvis", "Right"),
        ("vertebrae_L4", "L4 vertebra", None),
        ("bone", "Bone", None),
        ("left and right femur", "Tissue", None),
        ("tibial tray", "Tissue", None),
        ("widget_left", "Tissue", "Left"),
    ],
)
def test_a_name_is_understood_or_called_a_tissue(name, kind, side):
    terms = find_terms(name)

    assert terms.kind.meaning == kind
    assert (terms.side.meaning if terms.side else None) == side
    assert (terms.category == TISSUE) == (kind == "Tissue")
