"""The version of the package, which the build reads here, and of what it depends on."""

from __future__ import annotations

from collections.abc import Iterable

__version__ = "0.1.0"

_OF_A_PREDICTION = ("nnunet-bridge", "nnunetv2", "torch", "numpy")


def software_versions(packages: Iterable[str] = _OF_A_PREDICTION) -> dict[str, str]:
    """Return the version of Python and of every package on which a result depends.

    Examples
    --------
    >>> sorted(software_versions(["numpy", "scipy"]))
    ['numpy', 'python', 'scipy']
    """
    import platform
    from importlib.metadata import version

    versions = {name: version(name) for name in packages}
    return {"python": platform.python_version()} | versions
