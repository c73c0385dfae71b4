"""Split Caltech-256 into training and test images: 80 % and 20 % of a class.

    python tools/dataset_converters/caltech256.py 256_ObjectCategories

The same as `poslabel convert caltech256`; --help says what it does.
"""

import signal
import sys
from pathlib import Path

if __name__ == '__main__':
    # Until there is something to be stopped, Ctrl-C needs no traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from poslabel_mm.datasets.converters.arguments import run_tool  # noqa: E402
from poslabel_mm.datasets.converters.caltech256 import main  # noqa: E402

if __name__ == '__main__':
    run_tool(main)
