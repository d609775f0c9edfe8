"""With which software something was made."""

from __future__ import annotations

import platform
from importlib import metadata

_MATTER = ("nnunet-bridge", "nnunetv2", "torch", "numpy")


def software_versions() -> dict[str, str]:
    """Return the version of every program on which a result depends.

    Examples
    --------
    >>> sorted(software_versions())
    ['nnunet-bridge', 'nnunetv2', 'numpy', 'python', 'torch']
    """
    return {
        **{name: metadata.version(name) for name in _MATTER},
        "python": platform.python_version(),
    }
