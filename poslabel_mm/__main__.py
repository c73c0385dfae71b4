"""``python -m poslabel_mm``: the command ``poslabel``."""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())
