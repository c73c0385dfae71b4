"""Run any other of MMPretrain's tools on this project's configs and models.

    python tools/mmpretrain_tool.py analysis_tools/get_flops.py \\
        vit-b_apl_in1k.py --shape 224

Without arguments it lists the tools.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['tool', *sys.argv[1:]]))
