"""Run any other of MMPretrain's tools on this project's configs and models.

    python tools/mmpretrain_tool.py analysis_tools/get_flops.py \\
        vit-b_apl_in1k.py --shape 224

Without arguments it lists the tools.
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
    from poslabel_mm.launch.tools import other_tool
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks

if __name__ == '__main__':
    other_tool(sys.argv[1:])
