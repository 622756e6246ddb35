"""`python -m pipeline` is `edgepipe`."""

from pipeline.cli import main

main()
