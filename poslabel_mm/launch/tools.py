"""MMPretrain's own command-line tools, with errors of one line.

A stock tool is loaded from the MMPretrain that is installed, so every option is MMPretrain's own.
Before it starts, a run is checked and prepared: see :mod:`poslabel_mm.launch.preparation`.
"""

import os
import os.path as osp
import runpy
import signal
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import register_backend

from poslabel_mm.engine.files import AtomicLocalBackend
from poslabel_mm.engine.ranks import local_rank
from poslabel_mm.errors import UserError
from poslabel_mm.launch.arguments import checked_arguments, shipped_config
from poslabel_mm.launch.guard import Guard, leave_interrupted
from poslabel_mm.launch.parent_process import follow_parent, forked_children_follow
from poslabel_mm.launch.preparation import prepare_test, prepare_training, use_cpu_amp
from poslabel_mm.launch.resume_command import resume_command
from poslabel_mm.launch.stock_tools import list_tools, load_tool, tool_path
from poslabel_mm.launch.tool_errors import check_loader, one_line
from poslabel_mm.launch.unsent_batches import end_workers_that_cannot_send
from poslabel_mm.stack.config_prefix import without_own_scope
from poslabel_mm.stack.grad_cam import mend_grad_cam
from poslabel_mm.stack.image_errors import name_unreadable_images


def train() -> None:
    """Run MMPretrain's ``tools/train.py``."""
    _run('train.py', prepare_training)


def test() -> None:
    """Run MMPretrain's ``tools/test.py``."""
    _run('test.py', prepare_test)


def _run(name: str, prepare: Callable) -> None:
    with Guard() as guard, without_own_scope():
        follow_parent()
        forked_children_follow()
        # Until the training loop handles Ctrl-C, and throughout a test.
        signal.signal(signal.SIGINT, leave_interrupted)
        # Files that stock code writes are never left half-written either.
        register_backend('local', AtomicLocalBackend, force=True, prefixes='')
        os.environ.setdefault('POSLABEL_MM_RESUME_COMMAND', resume_command(sys.argv))
        # Where it is missing, the stock tool makes it 0 for every process.
        os.environ.setdefault('LOCAL_RANK', str(local_rank()))
        tool = load_tool(tool_path(name))
        tool.parse_args = checked_arguments(tool.parse_args)
        tool.merge_args = partial(prepare, tool.merge_args, guard.work_dir)
        name_unreadable_images()
        end_workers_that_cannot_send()
        tool.main()


def other_tool(argv: list[str], prog: str = 'poslabel tool') -> None:
    """Run another of MMPretrain's tools on this project's configs and models.

    Args:
        argv (list[str]): The tool's path below MMPretrain's ``tools/``, such
            as ``analysis_tools/get_flops.py``, and its arguments. An argument
            that is the name of a shipped config becomes its path.
        prog (str): The command that the usage line names.
    """
    with Guard(), without_own_scope():
        if not argv:
            raise UserError(
                f'usage is {prog} TOOL [ARGUMENTS], with TOOL one of {", ".join(list_tools())}'
            )
        path = tool_path(argv[0])
        if osp.basename(path) == 'vis_cam.py':
            mend_grad_cam()
        words = [shipped_config(arg) or arg for arg in argv[1:]]
        check_loader(argv[0], words)
        sys.argv = [path, *words]
        # Tools import their neighbours.
        sys.path.insert(0, osp.dirname(path))
        with one_line(argv[0], path, words):
            if osp.basename(path) == 'vis_scheduler.py':
                _plot_schedule(load_tool(path))
            else:
                runpy.run_path(path, run_name='__main__')


def _plot_schedule(tool: ModuleType) -> None:
    """Run the stock ``vis_scheduler.py`` on any config, without a GPU too."""
    simulate_train = tool.simulate_train

    def simulate(data_loader, cfg: Config, *args) -> dict:
        if get_device() == 'cpu':
            use_cpu_amp(cfg)
        return simulate_train(data_loader, cfg, *args)

    tool.simulate_train = simulate
    # The tool's stand-in model has one layer. Layer-wise decay asks a model for the depth of its
    # layers, and leaves the config's learning rate to the last one.
    tool.SimpleModel.get_layer_depth = lambda self, *args: (0, 1)
    tool.main()
