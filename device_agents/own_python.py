"""The Python that runs us, as a command."""

from __future__ import annotations

import os
import sys


def command() -> list[str]:
    """What starts the same Python again: through the loader that lies beside a portable one, which the kernel
    would not find by itself.
    """
    prefix = os.path.abspath(sys.prefix)
    loader = os.path.join(prefix, "ld.so")
    if not os.path.isfile(loader):
        return [sys.executable]
    return [loader, "--library-path", os.path.join(prefix, "lib"), os.path.abspath(sys.executable)]
