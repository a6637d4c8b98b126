"""``python -m dsim``."""

from dsim.cli.main import main

main()
