"""A check that a loader that drops its last batch has another one."""

import copy

from mmengine.config import Config
from mmengine.registry import DATASETS

from poslabel_mm.engine.ranks import num_processes
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.class_names import name_classes


def check_batches(cfg: Config, loader: str, sizes: dict[str, int]) -> None:
    """Refuse a loader that drops its only batch.

    Args:
        cfg (Config): A complete config.
        loader (str): Key of the loader.
        sizes (dict[str, int]): The numbers of images that are known, by the dataset's key.

    Raises:
        UserError: With the options that leave it a batch.
    """
    options = cfg[loader]
    batch, sampler = options.get('batch_size'), options.get('sampler') or {}
    inner = options.get('batch_sampler') or {}
    key = f'{loader}.batch_sampler' if inner.get('drop_last') else loader
    drops = inner.get('drop_last') or options.get('drop_last')
    if (
        not drops
        or not isinstance(batch, int)
        or options.get('num_batch_per_epoch')
        or _type_name(sampler) != 'DefaultSampler'
    ):
        return
    processes = num_processes(cfg)

    def of_each(size: int) -> int:
        # With round_up the sampler repeats images until all processes have equally many.
        return -(-size // processes) if sampler.get('round_up', True) else size // processes

    if of_each(_least_size(f'{loader}.dataset', options.dataset, sizes)) >= batch:
        return
    named = copy.deepcopy(cfg)
    name_classes(named)
    size = len(DATASETS.build(named[loader].dataset))
    if of_each(size) < batch:
        where = 'a process' if processes > 1 else 'it'
        smaller = f'{loader}.batch_size={of_each(size)} or ' if of_each(size) else ''
        raise UserError(
            f'{loader} has no batch: {where} gets {of_each(size)} images, a batch is {batch} '
            f'({loader}.batch_size), and smaller ones are dropped ({key}.drop_last): set '
            f'--cfg-options {smaller}{key}.drop_last=False'
        )


def _least_size(key: str, dataset: dict, sizes: dict[str, int]) -> int:
    """A lower bound of a dataset's number of images, found without building it."""
    kind = _type_name(dataset)
    if kind in ('RepeatDataset', 'ClassBalancedDataset'):
        return _least_size(f'{key}.dataset', dataset['dataset'], sizes)
    if kind == 'ConcatDataset':
        return sum(
            _least_size(f'{key}.datasets.{i}', inner, sizes)
            for i, inner in enumerate(dataset['datasets'])
        )
    is_part = dataset.get('indices') is not None or dataset.get('fraction', 1) != 1
    return 0 if is_part else sizes.get(key, 0)


def _type_name(options: dict) -> str:
    """The name of a config's type, without its scope."""
    kind = options.get('type')
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]
