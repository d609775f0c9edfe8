"""The versions of the packages that a result depends on."""

import importlib.metadata

import numpy as np

from nnunet_bridge.core.version import software_versions


def test_the_metadata_of_a_package_are_read_once(monkeypatch):
    first = software_versions(["numpy"])
    monkeypatch.delattr(importlib.metadata, "version")

    again = software_versions(["numpy"])

    assert again == first
    assert again["numpy"] == np.__version__
