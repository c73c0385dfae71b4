"""Make Mini-ImageNet for classification: 100 classes, 500 + 100 images each.

    python tools/dataset_converters/mini_imagenet.py data/imagenet --csv FOLDER

The same as `poslabel convert mini-imagenet`; --help says what it does.
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
from poslabel_mm.datasets.converters.mini_imagenet import main  # noqa: E402

if __name__ == '__main__':
    run_tool(main)
