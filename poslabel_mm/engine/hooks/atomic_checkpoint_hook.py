from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook

from poslabel_mm.engine.atomic_file import AtomicLocalBackend
from poslabel_mm.registry import HOOKS
from .last_saved import write_last_saved


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook that an interrupt cannot rob of a file.

    A checkpoint is written beside its place and moved there when it is
    complete, ``last_checkpoint`` likewise, and an outdated checkpoint is
    removed only when the one that replaces it is safe (MMEngine removes it
    first: with ``max_keep_ckpts=1`` an interrupt would lose everything).

    Args:
        **kwargs: The arguments of MMEngine's ``CheckpointHook``. With an
            ``out_dir`` that is not a local folder, or with ``backend_args``,
            that storage's own guarantees hold.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        local = '://' not in str(self.out_dir or '')
        if local and not self.backend_args and not self.file_client_args:
            self.backend_args = dict(backend='poslabel_mm_atomic')

    def _save_checkpoint_with_step(self, runner, step: int,
                                   meta: dict) -> None:
        outdated = None
        if self.max_keep_ckpts > 0:
            if step in self.keep_ckpt_ids:  # written anew, not to be removed
                self.keep_ckpt_ids.remove(step)
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids',
                                           list(self.keep_ckpt_ids))

        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args)

        if not is_main_process():
            return
        write_last_saved(self.last_ckpt, runner.work_dir)
        if outdated is not None:
            path = self.file_backend.join_path(
                self.out_dir, self.filename_tmpl.format(outdated))
            if self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif self.file_backend.isdir(path):
                # DeepSpeed's checkpoints are folders.
                self.file_backend.rmtree(path)

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        if not self.save_best or not isinstance(self.file_backend,
                                                AtomicLocalBackend):
            return super()._save_best_checkpoint(runner, metrics)
        with self.file_backend.removals_postponed() as outdated:
            super()._save_best_checkpoint(runner, metrics)
            # The old and the new best one have one name if both are of one
            # epoch: then the old one has been replaced already.
            if len(self.key_indicators) == 1:
                best = [self.best_ckpt_path]
            else:
                best = self.best_ckpt_path_dict.values()
            outdated[:] = [path for path in outdated if path not in best]
