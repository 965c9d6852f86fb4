"""What the benchmarks share: the machine, figures, their JSON, and a kubebee to measure."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
for folder in ("e2e", "tests"):  # the lab, and what runs a kubebee in it
    sys.path.insert(0, str(ROOT / folder))
