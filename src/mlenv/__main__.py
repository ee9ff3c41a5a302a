"""``python -m mlenv``."""

from mlenv.cli import main

main()
