import os.path as osp
import re

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop

from poslabel_mm.engine.files import AtomicLocalBackend
from poslabel_mm.engine.hooks import partial_gradients
from poslabel_mm.engine.hooks.last_saved import last_saved, write_last_saved
from poslabel_mm.engine.resumable_train_loop import VALIDATED, ResumableTrainLoop
from poslabel_mm.registry import HOOKS

MID_EPOCH = re.compile(r'epoch_\d+_iter_\d+\.pth')

# In a checkpoint, if it was saved between two updates of the weights.
GRADIENTS = 'partial_gradients'

# In the message hub: the files to remove once the checkpoint that lists them
# is written.
OUTDATED = 'outdated_ckpts'

# In the message hub, of a run that counts iterations: the checkpoints of its stops,
# to remove once another one is written.
STOPS = 'stop_ckpts'


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook, safe from interrupts: no file is lost or half-written.

    A checkpoint is written beside its place and moved there when it is
    complete, ``last_checkpoint`` likewise, and an outdated checkpoint is
    removed only when the one that replaces it is safe (MMEngine removes it
    first: with ``max_keep_ckpts=1`` an interrupt would lose everything).

    It can also save in mid-epoch, for a run to be resumed at the next iteration
    (:class:`~poslabel_mm.engine.resumable_train_loop.ResumableTrainLoop`).
    There is one such file, ``epoch_2_iter_150.pth`` after 150 iterations of
    the second epoch: the next checkpoint of any kind takes its place, and
    ``max_keep_ckpts`` does not count it. So it is with the checkpoint of a
    stop where the training loop counts iterations, ``iter_1234.pth``.

    Args:
        mid_epoch_interval (int): Save in mid-epoch every so many iterations,
            at the next one that updates the weights if gradients are
            accumulated. Defaults to -1: only when a signal stops the run.
        **kwargs: The arguments of MMEngine's ``CheckpointHook``. With an
            ``out_dir`` that is not a local folder, or with ``backend_args``,
            that storage's own guarantees hold.
    """

    def __init__(self, mid_epoch_interval: int = -1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.mid_epoch_interval = mid_epoch_interval
        self._is_due = False
        # The iterations and the last validation of the newest checkpoint.
        self._saved: tuple[int, int | None] = (0, None)
        self._outdated_best: list[str] = []
        self._gradients: list[dict] | None = None
        self._meta: dict | None = None
        local = '://' not in str(self.out_dir or '')
        if local and not self.backend_args and not self.file_client_args:
            self.backend_args = dict(backend='poslabel_mm_atomic')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume:
            self._gradients = checkpoint.get(GRADIENTS)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if self._gradients is not None and 'optimizer' in checkpoint:
            checkpoint[GRADIENTS] = self._gradients
        if self._meta is not None and 'meta' in checkpoint:
            # FlexibleRunner counts by itself, and wrongly between epochs.
            checkpoint['meta'].update(self._meta)

    def before_train(self, runner) -> None:
        super().before_train(runner)
        if self._gradients is not None:
            partial_gradients.restore(runner, self._gradients)
            self._gradients = None
        info = runner.message_hub.runtime_info
        if _resumed_from_the_last(runner):
            self._saved = (runner.iter, info.get(VALIDATED))
        # With it, a best score that is found before the first checkpoint of a
        # resumed run is added to the one that it was resumed from.
        self.last_ckpt = info.get('last_ckpt')
        if self.by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
            runner.logger.warning(
                'The training loop counts iterations and the checkpoint hook counts epochs: '
                'checkpoints are saved at the end and at a stop alone. For more, set '
                'default_hooks.checkpoint.by_epoch=False and its interval in iterations.'
            )
        if is_main_process():
            kept = self._best_checkpoints()
            for path in info.get(OUTDATED, ()):
                # The run may be resumed in another folder than it began in.
                if path not in kept and osp.dirname(path) == self.out_dir:
                    self._remove(path)
            if _resumed_from_the_last(runner) and self.file_backend.isdir(self.out_dir):
                # A run that was killed right after its last epoch writes no other.
                last = osp.basename(last_saved(runner.work_dir))
                self._remove_mid_epoch(but=last)
                self._remove_stops(runner, but=self._path(last))

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.every_n_train_iters(runner, self.mid_epoch_interval):
            self._is_due = True
        # After the last one of an epoch there may be a checkpoint anyway.
        if (
            self._is_due
            and self.can_save(runner)
            and not self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            self.save_mid_epoch(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner) -> None:
        super().after_train_epoch(runner)
        if self._is_due and isinstance(runner.train_loop, ResumableTrainLoop):
            self.save_mid_epoch(runner, runner.epoch + 1, runner.iter)

    @staticmethod
    def can_save(runner) -> bool:
        """Whether :meth:`save_mid_epoch` should save after this iteration.

        The gradients that are accumulated before an update are as large as
        the model, in each process: they are saved only where a checkpoint
        cannot wait. Loops other than :class:`ResumableTrainLoop` cannot begin
        in mid-epoch.
        """
        return isinstance(
            runner.train_loop, ResumableTrainLoop
        ) and not partial_gradients.are_pending(runner)

    def has_saved(self, iterations: int) -> bool:
        """Whether the newest checkpoint is of so many iterations."""
        return self._saved[0] == iterations > 0

    def save_mid_epoch(self, runner, epoch: int, iterations: int) -> None:
        """Save a checkpoint in mid-epoch, unless the newest one has the same state.

        Args:
            runner (Runner): The runner of the training process.
            epoch (int): How many epochs are complete.
            iterations (int): How many iterations are done, of all epochs.

        Raises:
            UserError: If it cannot be written; the last checkpoint is
                untouched.
        """
        self._is_due = False
        state = (iterations, runner.message_hub.runtime_info.get(VALIDATED))
        if state == self._saved:
            return
        filename = f'epoch_{epoch + 1}_iter_{runner.train_loop.position}.pth'
        self._write(runner, filename, dict(epoch=epoch, iter=iterations))
        if is_main_process():
            self._remove_mid_epoch(but=filename)

    def save_iteration(self, runner, iterations: int) -> None:
        """Save the checkpoint of a stop of a training loop that counts iterations.

        The next checkpoint takes its place.

        Args:
            runner (Runner): The runner of the training process.
            iterations (int): How many are done.

        Raises:
            UserError: If it cannot be written.
        """
        self._is_due = False
        # The hook's own names are those of epochs where it counts them.
        filename = f'iter_{iterations}.pth'
        if not self.by_epoch:
            filename = self.filename_tmpl.format(iterations)
        path = self._path(filename)
        stops = runner.message_hub.runtime_info.get(STOPS, [])
        runner.message_hub.update_info(STOPS, [*stops, path])
        self._write(runner, filename, dict(epoch=runner.epoch, iter=iterations))
        self._remove_stops(runner, but=path)

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        self._is_due = False
        outdated = []
        if self.max_keep_ckpts > 0:
            if step in self.keep_ckpt_ids:  # written anew, not to be removed
                self.keep_ckpt_ids.remove(step)
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated.append(
                    self._path(self.filename_tmpl.format(self.keep_ckpt_ids.popleft()))
                )
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self._path(filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        # For a run that is killed before it has removed them.
        runner.message_hub.update_info(OUTDATED, outdated + self._outdated_best)
        self._write(runner, filename, meta, self.by_epoch)
        if is_main_process():
            self._remove_mid_epoch()
            for path in outdated:
                self._remove(path)
        self._remove_stops(runner, but=self.last_ckpt)

    def _write(self, runner, filename: str, meta: dict, by_epoch: bool = False) -> None:
        """Write a checkpoint, then the pointer to it."""
        if partial_gradients.are_pending(runner):
            self._gradients = partial_gradients.gather(runner)
        self._meta = dict(meta)
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        finally:
            self._gradients = self._meta = None
        if hasattr(runner, 'strategy'):
            barrier()  # its processes may each save a part
        if is_main_process():
            write_last_saved(self._path(filename), runner.work_dir)
        self._saved = (meta['iter'], runner.message_hub.runtime_info.get(VALIDATED))

    def _path(self, filename: str) -> str:
        return self.file_backend.join_path(self.out_dir, filename)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            # DeepSpeed's checkpoints are folders.
            self.file_backend.rmtree(path)

    def _remove_mid_epoch(self, but: str | None = None) -> None:
        for name in list(self.file_backend.list_dir_or_file(self.out_dir)):
            if MID_EPOCH.fullmatch(name) and name != but:
                self._remove(self._path(name))

    def _remove_stops(self, runner, but: str) -> None:
        """Remove the checkpoints of stops that another one has replaced."""
        stops = runner.message_hub.runtime_info.get(STOPS, [])
        if stops:
            for path in stops:
                # The run may be resumed in another folder than it began in.
                if path != but and osp.dirname(path) == self.out_dir and is_main_process():
                    self._remove(path)
            runner.message_hub.update_info(STOPS, [path for path in stops if path == but])

    def _best_checkpoints(self) -> list:
        if not self.save_best:
            return []
        if len(self.key_indicators) == 1:
            return [self.best_ckpt_path]
        return list(self.best_ckpt_path_dict.values())

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best or not isinstance(self.file_backend, AtomicLocalBackend):
            return super()._save_best_checkpoint(runner, metrics)
        with self.file_backend.removals_postponed() as outdated:
            self._outdated_best = outdated
            super()._save_best_checkpoint(runner, metrics)
            # The old and the new best one have one name if both are of one
            # epoch: then the old one has been replaced already.
            best = self._best_checkpoints()
            outdated[:] = [path for path in outdated if path not in best]
        self._outdated_best = []


def _resumed_from_the_last(runner) -> bool:
    """Whether the run was resumed from the checkpoint that it would be resumed from now."""
    saved = last_saved(runner.work_dir)
    return (
        runner.iter > 0
        and saved is not None
        and (runner._load_from is None or osp.realpath(runner._load_from) == osp.realpath(saved))
    )
