"""The version of the package, which the build reads here, and of what it depends on."""

from collections.abc import Iterable
from functools import cache

__version__ = "0.1.0"

_OF_A_PREDICTION = ("nnunet-bridge", "nnunetv2", "torch", "numpy")


def software_versions(packages: Iterable[str] = _OF_A_PREDICTION) -> dict[str, str]:
    """Return the version of Python and of every package on which a result depends."""
    import platform

    versions = {name: _version_of(name) for name in packages}
    return {"python": platform.python_version()} | versions


@cache
def _version_of(package: str) -> str:
    """Return an installed version; reading its metadata takes some 10 ms."""
    from importlib.metadata import version

    return version(package)
