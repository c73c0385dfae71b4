import warnings
from functools import partial

import torch
from mmengine.dataset import worker_init_fn as mmengine_worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from poslabel_mm.engine.resumable_train_loop import ResumableTrainLoop
from poslabel_mm.engine.seeding import STEP, seed_from
from poslabel_mm.registry import HOOKS

SAMPLER_SEED = 'train_sampler_seed'


def seed_worker(worker_id: int, quiet: bool = False) -> None:
    """Seed a loader's worker.

    MMEngine's own function gives a worker the same seed every time it starts:
    workers that start anew each epoch would repeat their augmentations.

    Args:
        worker_id (int): The number of the worker, on which torch's seed depends.
        quiet (bool): Silence warnings in all workers but the first, as
            ``disable_subprocess_warning`` of MMEngine asks for.
    """
    seed_from(torch.initial_seed())
    if quiet and worker_id != 0:
        warnings.simplefilter('ignore')


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Random numbers that depend on their purpose, and on nothing drawn before.

    A training step (drop path, Mixup, masks, drawn pairs) draws from (seed,
    epoch, iteration, rank), a sample's augmentation from (seed, epoch, rank,
    index, how often the rank has drawn that index in this epoch), shuffling
    from (seed, epoch). A run that stopped after any iteration and
    was resumed then draws what it would have drawn, with any number of
    workers. On a CPU the weights are equal bit for bit.

    MMEngine's epoch-based training loop is replaced by a
    :class:`~poslabel_mm.engine.resumable_train_loop.ResumableTrainLoop`. With
    another loop only what depends on the step and the epoch is repeated, and
    the hook warns of it.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        # Not the property: it would build the loop of a run that only tests.
        loop = runner._train_loop
        if type(loop) is EpochBasedTrainLoop:
            runner._train_loop = ResumableTrainLoop.in_place_of(loop)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        loop = runner._train_loop
        if getattr(runner, '_resume', False) and isinstance(loop, ResumableTrainLoop):
            loop.fit(checkpoint)

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        self._keep_sampler_seed(runner, loader)
        # MMPretrain's vis_scheduler trains without data: its loader is a list.
        init_fn = getattr(loader, 'worker_init_fn', None)
        if getattr(init_fn, 'func', None) is mmengine_worker_init_fn:
            quiet = init_fn.keywords.get('disable_subprocess_warning', False)
            loader.worker_init_fn = partial(seed_worker, quiet=quiet)
        loop = runner.train_loop
        if isinstance(loop, ResumableTrainLoop):
            return
        if getattr(loader, 'persistent_workers', False):
            runner.logger.warning(
                'train_dataloader has persistent_workers=True: a resumed run '
                'will not repeat the augmentation of one that was not '
                'stopped; set persistent_workers=False for that'
            )
        if not isinstance(loop, EpochBasedTrainLoop):
            runner.logger.warning(
                'the training loop is not epoch-based: a resumed run will not '
                'draw the random numbers of one that was not stopped; set '
                'train_cfg.by_epoch=True and max_epochs for that'
            )

    def before_train_epoch(self, runner) -> None:
        entropy = [runner.seed, runner.epoch, get_rank()]
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            # Called once in such a loop: a resumed run draws other numbers.
            entropy.append(runner.iter)
        seed_from(*entropy)

    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        seed_from(STEP, runner.seed, runner.epoch, batch_idx, get_rank())

    @staticmethod
    def _keep_sampler_seed(runner, loader) -> None:
        """Keep shuffling with the seed that the run began with.

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
