"""``python -m poslabel_mm.benchmark``: what a benchmark starts to measure one form's memory."""

import sys

from poslabel_mm.cli import run_script

if __name__ == '__main__':
    sys.exit(run_script('poslabel_mm.benchmark.command:main'))
