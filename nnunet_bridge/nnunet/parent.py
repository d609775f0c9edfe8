"""End a process of nnU-Net, and its workers, when the process that started it ends."""

import os
import signal
import threading
import time

from nnunet_bridge.formats import system
from nnunet_bridge.nnunet.names import PARENT_VARIABLE

_CHECK_S = 0.2


def end_with_parent() -> None:
    """Watch the parent from a thread; kill this process, or its whole group, after it.

    It begins before torch is imported, which takes seconds. The parent may have ended
    already, so its id comes from a variable that it set.
    """
    parent = int(os.environ.get(PARENT_VARIABLE) or os.getppid())
    leads = system.leads_its_group()

    def watch() -> None:
        while system.is_child_of(parent):
            time.sleep(_CHECK_S)
        system.end_this_process(with_group=leads)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
