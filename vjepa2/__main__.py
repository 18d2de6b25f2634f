"""`python -m vjepa2`."""

from vjepa2.cli import main

main()
