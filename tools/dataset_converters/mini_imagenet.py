"""Make Mini-ImageNet for classification: 100 classes, 500 + 100 images each.

    python tools/dataset_converters/mini_imagenet.py data/imagenet --csv FOLDER

The same as `poslabel convert mini-imagenet`; --help says what it does.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['convert', 'mini-imagenet', *sys.argv[1:]]))
