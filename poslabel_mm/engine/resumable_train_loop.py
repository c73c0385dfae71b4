"""An epoch-based training loop that can be resumed at any iteration."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader, IterableDataset

from poslabel_mm.engine.seeding import SeededIndices, SeededSamples

# In the message hub, and so in every checkpoint: the batches of this epoch that the model was
# trained on and the batches of an epoch; the last epoch that was validated.
POSITION = 'epoch_position'
VALIDATED = 'last_validated_epoch'


class ResumableTrainLoop(EpochBasedTrainLoop):
    """MMEngine's epoch-based loop, resumed at the next iteration.

    A checkpoint may be saved after any iteration. The resumed run skips the batches that were
    seen, at the sampler: nothing is loaded to be thrown away. A checkpoint that was saved before
    its epoch was validated is validated first. What a sample draws depends on its index and the
    epoch (:class:`poslabel_mm.engine.seeding.SeededIndices`), not on the worker that loads it.

    torchdata's ``StatefulDataLoader`` would save the position as well, but not the random state
    of the workers (every dataset would have to), for one number of workers only, and MMEngine
    builds loaders of torch's own class.
    """

    @classmethod
    def in_place_of(cls, loop: EpochBasedTrainLoop) -> 'ResumableTrainLoop':
        """A loop with the settings and the state of a stock one."""
        resumable = cls.__new__(cls)
        vars(resumable).update(vars(loop))
        loader = loop.dataloader
        resumable._indices = None
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            batched = loader.batch_sampler is not None
            resumable._indices = SeededIndices(
                loader.batch_sampler if batched else loader.sampler, batched
            )
        return resumable

    @property
    def position(self) -> int:
        """Batches of this epoch that the model was trained on."""
        return self.runner.message_hub.runtime_info.get(POSITION, (0, 0))[0]

    def run(self) -> Any:
        """Launch training."""
        self.runner.call_hook('before_train')
        validated = self.runner.message_hub.runtime_info.get(VALIDATED)
        if self._epoch > 0 and self.position == 0 and validated != self._epoch:
            self._validate_if_due()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Iterate over what is left of an epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self.position
        for idx, data_batch in enumerate(self._batches_from(done), done):
            self._set_position(idx + 1)  # before the hooks that save after the iteration
            self.run_iter(idx, data_batch)
        self._set_position(0)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        if (
            self.runner.val_loop is not None
            and self._epoch >= self.val_begin
            and (self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs)
        ):
            # Before the validation, so that a checkpoint saved for its result records it.
            self.runner.message_hub.update_info(VALIDATED, self._epoch)
            self.runner.val_loop.run()

    def _set_position(self, done: int) -> None:
        self.runner.message_hub.update_info(POSITION, [done, len(self.dataloader)])

    def fit(self, checkpoint: dict) -> None:
        """Convert a checkpoint's position to the iterations that an epoch has now.

        The checkpoint is changed before anything is resumed from it, so that the loop, the
        schedule and the accumulation of gradients agree. The number of complete epochs stays, and
        the share of the one that was stopped.

        Args:
            checkpoint (dict): The checkpoint that is being resumed from; changed in place.
        """
        info = checkpoint['message_hub']['runtime_info']
        done, length = info.get(POSITION, (0, 0))
        now = len(self.dataloader)
        if not length or length == now:
            return
        fitted = done * now // length
        if done:
            self.runner.logger.warning(
                f'an epoch has {now} iterations now and had {length} when the checkpoint was '
                f'saved, after {done} of them: the run is resumed after {fitted} of {now} and '
                'differs from a run that was not stopped'
            )
        info[POSITION] = [fitted, now]
        checkpoint['meta']['iter'] = checkpoint['meta']['epoch'] * now + fitted

    def _batches_from(self, done: int) -> Iterator:
        loader = self.dataloader
        if self._indices is None:
            return islice(iter(loader), done, None)
        self._indices.entropy = (self.runner.seed, self._epoch, get_rank())
        self._indices.skipped = done
        # The loader itself stays as others know it; torch forbids to set these on it.
        seeded = copy.copy(loader)
        vars(seeded)['dataset'] = SeededSamples(loader.dataset)
        vars(seeded)['batch_sampler' if self._indices.batched else 'sampler'] = self._indices
        batches = iter(seeded)
        loader._iterator = seeded._iterator  # persistent workers are those of the next epoch too
        return batches
