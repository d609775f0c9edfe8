"""Names of structures and sides are understood in any order, form and language."""

import itertools

import pytest

from nnunet_bridge.formats.vocabulary import read_vocabulary
from nnunet_bridge.ops.naming import transliterated, words_of

KNOWN = read_vocabulary()


def read(name, **options):
    """Return structures and side of a name."""
    found = KNOWN.read(words_of(name), **options)
    return found.structures, found.side


@pytest.mark.parametrize(
    ("name", "structure", "side"),
    [
        ("TibiaL", "tibia", "left"),
        ("LFemur", "femur", "left"),
        ("leftFemurKnee101", "femur", "left"),
        ("Segmentation_P01_femur_L_label", "femur", "left"),
        ("hemi-L_label-femur", "femur", "left"),
        ("FEMURRIGHT", "femur", "right"),
        ("oberschenkelknochenlinks", "femur", "left"),
        ("Schienbein re", "tibia", "right"),
        ("Hueftbein_li", "pelvis", "left"),
        ("péroné droit", "fibula", "right"),
        ("hueso coxal izquierdo", "pelvis", "left"),
        ("4_M_pelvis_5A", "pelvis", "middle"),
        ("M. vastus lateralis dex.", "vastus_lateralis", "right"),
        ("anterior tibialis lt", "tibialis_anterior", "left"),
        ("gastrocnemius_medialis", "gastrocnemius_medialis", ""),
        ("medial gastroc", "gastrocnemius", ""),
        ("FemurCartilage", "femoral_cartilage", ""),
        ("vertebrae_L4", "L4", ""),
        ("P01_L4", "L4", ""),
        ("femur bilateral", "femur", ""),
        ("hip_left", "pelvis", "left"),
        ("P01_T1_femur", "femur", ""),
    ],
)
def test_a_name_is_understood(name, structure, side):
    assert read(name) == ((structure,), side)


def test_every_name_of_the_vocabulary_means_one_structure():
    for structure, others in KNOWN.names.items():
        for name in others:
            for written in (name, name.upper(), transliterated(name)):
                if words_of(written)[0] not in ("th", "t1", "t2"):
                    assert read(written)[0] == (structure,), written


def test_words_in_any_order_are_one_structure():
    for words in itertools.permutations(("left", "vastus", "medialis")):
        assert read("_".join(words)) == (("vastus_medialis",), "left")


@pytest.mark.parametrize("name", ["P01_labels", "scan", "9L", "P01_T1", "AB12"])
def test_what_names_no_structure_is_none(name):
    assert read(name) == ((), "")


def test_a_single_letter_is_a_side_only_where_a_study_has_both():
    french = KNOWN.for_study({"femur", "g", "d"})

    assert french.read(("femur", "g")).side == "left"
    assert KNOWN.for_study({"femur", "d"}).read(("femur", "d")).side == ""


def test_T1_is_a_vertebra_only_beside_others():
    assert KNOWN.for_study({"t1", "femur"}).read(("t1",)).structures == ()
    assert KNOWN.for_study({"t1", "t7"}).read(("t1",)).structures == ("T1",)


def test_a_lone_doubled_letter_is_a_slip_and_a_pair_are_sides():
    assert KNOWN.for_study({"femurr", "tibia"}).read(("femurr",)).structures == ()
    both = KNOWN.for_study({"femurr", "femurl"})
    assert both.read(("femurr",)).side == "right"
    assert KNOWN.nearest("femurr") == "femur"
    assert KNOWN.nearest("sesamoid") == ""


def test_words_of_files_and_sequences_have_no_meaning_and_structures_have():
    idle = [
        word for word in ("mask", "mri", "femur", "p01") if KNOWN.has_no_meaning(word)
    ]

    assert idle == ["mask", "mri"]
