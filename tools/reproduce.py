"""Train and test rows of the paper's tables, and draw its figures.

    python tools/reproduce.py --list
    python tools/reproduce.py --table 5 [--table 6] [--gpus 8] [--seeds 0 1 2]
    python tools/reproduce.py --row 4/vit-b-apl --row 4/vit-b
    python tools/reproduce.py --figure 8
    python tools/reproduce.py --all --dry-run
    python tools/reproduce.py --all --scale tiny

Finished runs are skipped and interrupted ones are resumed: repeat the command.
--dry-run prints the shell commands and makes nothing.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['reproduce', *sys.argv[1:]]))
