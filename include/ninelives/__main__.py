"""``python -m ninelives``: the command line."""

from ninelives.cli import main

main()
