"""The command line: parse the options, call one pipeline, print its summary."""

from nnunet_bridge.cli.app import main

__all__ = ["main"]
