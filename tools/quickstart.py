"""Train a small ViT on real digits, without and with positional labels.

    python tools/quickstart.py [--seeds 0 1] [--epochs N] [--work-dir DIR]

Every run is a row of configs/digits.yml. The saved checkpoints are tested, and the
results put in a table and a picture. Repeat the command to resume.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['quickstart', *sys.argv[1:]]))
