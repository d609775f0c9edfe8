"""`python -m nnunet_bridge` is the command `nnunet-bridge`."""

from nnunet_bridge.cli import main

if __name__ == "__main__":
    main(prog_name="nnunet-bridge")
