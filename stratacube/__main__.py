"""``python -m stratacube``: the command ``stratacube``."""

from __future__ import annotations

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(import_module("cube.build").main())
