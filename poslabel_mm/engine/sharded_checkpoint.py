"""Folders with a file for each process, as MMEngine's ``FSDPStrategy`` saves them."""

import os.path as osp
import zipfile
from glob import escape, glob

from mmengine._strategy import SingleDeviceStrategy
from mmengine.config import Config

from poslabel_mm.engine.ranks import num_processes
from poslabel_mm.engine.wrappers import saves_folders, strategy_type
from poslabel_mm.errors import UserError
from poslabel_mm.stack.checkpoint_file import check_records

ONE_FILE = 'one file that holds all weights, as strategy.state_dict_cfg=full saves'


def is_read_by_strategy(path: str, cfg: Config) -> bool:
    """Whether a run reads a checkpoint in shards.

    Args:
        path (str): The path, as the user wrote it.
        cfg (Config): A config with its ``launcher``.

    Returns:
        bool: False for a file that holds all weights. True also for the checkpoints of DeepSpeed
        and ColossalAI, which are not checked.

    Raises:
        UserError: If the run cannot read the checkpoint, or not with so many processes.
    """
    if 'runner_type' not in cfg or '://' in path:
        return False
    if not issubclass(strategy_type(cfg), SingleDeviceStrategy):
        return osp.isdir(path)
    saved = len(_shards(path))
    if not saves_folders(cfg):
        if saved:
            raise UserError(
                f'checkpoint {path} has the shards of {saved} processes: resume in {saved} with '
                f'the strategy that saved it, or name {ONE_FILE}'
            )
        return False
    if osp.isfile(path):
        raise UserError(
            f'checkpoint {path} is one file, and this FSDPStrategy reads folders of '
            'shards: add --cfg-options strategy.state_dict_cfg=full'
        )
    here = num_processes(cfg)
    if not osp.isdir(path) or saved != here:
        held = (
            f'has the shards of {saved} processes'
            if saved
            else ('has no shards' if osp.isdir(path) else 'does not exist')
        )
        raise UserError(
            f'checkpoint {path} {held}, and this run has {here} processes: '
            + (f'start {saved}, or name {ONE_FILE}' if saved else 'name another')
        )
    return True


def check_shards(path: str) -> None:
    """Look for damage in a checkpoint that a strategy reads.

    Args:
        path (str): Path of the folder.

    Raises:
        UserError: If a shard is not whole.
    """
    for shard in sorted(_shards(path)):
        if not zipfile.is_zipfile(shard):
            raise UserError(f'checkpoint {shard} is damaged')
        check_records(shard)


def _shards(path: str) -> list[str]:
    return glob(osp.join(escape(osp.expanduser(path)), 'rank*.pth'))
