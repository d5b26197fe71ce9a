"""``python -m embver_pg.cli``."""

from __future__ import annotations

import sys

from embver_pg.cli import main

if __name__ == "__main__":
    sys.exit(main())
