"""The roof: words on a terminal in, one pipeline called, one result out."""

from nnunet_bridge.cli.app import main

__all__ = ["main"]
