"""Where Python starts the agent, both in the package and at the top of the packed file."""

from __future__ import annotations

import sys

from device_agents.agent import main

sys.exit(main(sys.argv[1:]))
