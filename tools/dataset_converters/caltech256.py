"""Split Caltech-256 into training and test images: 80 % and 20 % of a class.

    python tools/dataset_converters/caltech256.py 256_ObjectCategories

The same as `poslabel convert caltech256`; --help says what it does.
"""

import sys
from pathlib import Path

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from poslabel_mm.cli import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main(['convert', 'caltech256', *sys.argv[1:]]))
