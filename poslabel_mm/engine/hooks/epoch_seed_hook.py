import random
import warnings
from functools import partial

import numpy as np
import torch
from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from poslabel_mm.registry import HOOKS

SAMPLER_SEED = 'train_sampler_seed'


def seed_from(*entropy: int) -> None:
    """Seed python, numpy and torch (every device) from some integers."""
    words = np.random.SeedSequence(entropy).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def seed_worker(worker_id: int, quiet: bool = False) -> None:
    """Seed a loader's worker from the seed that torch drew for it.

    MMEngine's own function gives a worker the same seed every time it starts:
    workers that start anew each epoch would repeat their augmentations.

    Args:
        worker_id (int): Unused but for ``quiet``; torch's seed has it in it.
        quiet (bool): Silence warnings in all workers but the first, as
            ``disable_subprocess_warning`` of MMEngine asks for.
    """
    seed_from(torch.initial_seed())
    if quiet and worker_id != 0:
        warnings.simplefilter('ignore')


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Randomness that depends on (seed, epoch, rank) and on nothing before.

    A run that stopped after any epoch and was resumed then draws what it would
    have drawn: drop path, Mixup, shuffling and augmentation, with any number
    of workers, are those of a run that never stopped. On a CPU the weights are
    equal bit for bit.

    It needs an epoch-based training loop, and workers that start anew each
    epoch: ``persistent_workers=False``, which this project's tools set. It
    warns where it has not.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        self._keep_sampler_seed(runner, loader)
        # MMPretrain's vis_scheduler trains without data: its loader is a list.
        init_fn = getattr(loader, 'worker_init_fn', None)
        if getattr(init_fn, 'func', None) is mmengine_worker_init_fn:
            quiet = init_fn.keywords.get('disable_subprocess_warning', False)
            loader.worker_init_fn = partial(seed_worker, quiet=quiet)
        if getattr(loader, 'persistent_workers', False):
            runner.logger.warning(
                'train_dataloader has persistent_workers=True: a resumed run '
                'will not repeat the augmentation of one that was not '
                'stopped; set persistent_workers=False for that')
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'the training loop is not epoch-based: a resumed run will not '
                'draw the random numbers of one that was not stopped; set '
                'train_cfg.by_epoch=True and max_epochs for that')

    def before_train_epoch(self, runner) -> None:
        entropy = [runner.seed, runner.epoch, get_rank()]
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            # Comes once in such a loop: where it goes on, draw anew.
            entropy.append(runner.iter)
        seed_from(*entropy)

    @staticmethod
    def _keep_sampler_seed(runner, loader) -> None:
        """Shuffle on with the seed that the run began with.

        The sampler is built before a checkpoint is read. Without a seed in the
        config it would shuffle with a fresh one after a resume.
        """
        sampler = getattr(loader, 'sampler', None)
        if not hasattr(sampler, 'seed'):
            batch_sampler = getattr(loader, 'batch_sampler', None)
            sampler = getattr(batch_sampler, 'sampler', sampler)
        if getattr(sampler, 'seed', None) is None:
            return
        info = runner.message_hub.runtime_info
        sampler.seed = info.get(SAMPLER_SEED, sampler.seed)
        runner.message_hub.update_info(SAMPLER_SEED, sampler.seed)
