"""Start a tool in several processes of this machine, as torchrun does.

    python tools/torchrun.py PROCESSES SCRIPT [ARGUMENTS]

Unlike torchrun it takes a free port unless PORT is set, and adds no report of
its own to a line that a process has printed: see poslabel_mm/launch/torchrun.py.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from poslabel_mm.cli import run_script  # noqa: E402

if __name__ == '__main__':
    sys.exit(run_script('poslabel_mm.launch.torchrun:main'))
