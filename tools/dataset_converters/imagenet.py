"""Check that ImageNet-1K is whole and where the configs expect it.

    python tools/dataset_converters/imagenet.py --check data/imagenet

The same as `poslabel convert imagenet`; --help says what it does.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['convert', 'imagenet', *sys.argv[1:]]))
