"""Where Python starts the agent, both in the package and at the top of the packed file."""

from __future__ import annotations

import os
import sys

from device_agents.agent import main

# Whatever the login's own habit is: nothing we make there can be written by others.
os.umask(os.umask(0o077) | 0o022)
sys.exit(main(sys.argv[1:]))
