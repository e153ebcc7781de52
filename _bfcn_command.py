"""The command `bfcn`. A process that imports this is one: bfcn_mm/__init__.py then imports no torch."""

import sys


def main() -> None:
    from bfcn_mm.cli import main

    sys.exit(main())
