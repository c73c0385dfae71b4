"""Test a checkpoint: MMPretrain's tools/test.py, with all its options.

    python tools/test.py CONFIG CHECKPOINT [--out FILE] [--tta] [--amp] ...

CONFIG is a path or the name of a shipped config (``vit-b_apl_in1k.py``).
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
