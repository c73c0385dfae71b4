#!/usr/bin/env python
"""Time training steps and the relative loss, in turn in one run.

python tools/benchmark.py step vit-b_in1k.py vit-b_apl_in1k.py vit-b_rpl_in1k.py
python tools/benchmark.py pairs --grids 7 14 24 --batch-sizes 1 2 8
python tools/benchmark.py table benchmarks/*.csv
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import run_script  # noqa: E402

if __name__ == '__main__':
    sys.exit(run_script('poslabel_mm.benchmark.command:main'))
