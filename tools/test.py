"""Test a checkpoint: MMPretrain's tools/test.py, with all its options.

    python tools/test.py CONFIG CHECKPOINT [--out FILE] [--tta] [--amp] ...

CONFIG is a path or the name of a shipped config (``vit-b_apl_in1k.py``).
"""
import os
import os.path as osp
import signal
import sys

# Until there is something to be stopped, Ctrl-C needs no traceback.
if __name__ == '__main__':
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, osp.dirname(osp.dirname(osp.realpath(__file__))))

try:
    from poslabel_mm.launch.tools import test
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks

if __name__ == '__main__':
    test()
