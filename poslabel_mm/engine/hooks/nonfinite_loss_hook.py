import os
import os.path as osp
import re
from glob import escape, glob
from math import isfinite

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from poslabel_mm.engine.hooks.last_saved import last_saved
from poslabel_mm.engine.hooks.nonfinite_state import constant_infinities, nonfinite_entry
from poslabel_mm.errors import UserError
from poslabel_mm.registry import HOOKS
from poslabel_mm.stack.checkpoint_file import read

# A loss scaler skips the step of a batch that overflowed in float16: only many
# skipped steps in a row mean that the weights are lost.
SKIPPED_STEPS = 20

# The learning rate is divided by this in the advice.
LOWER = 10
LR = 'optim_wrapper.optimizer.lr'


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops training at a NaN or infinite loss, before it reaches a file.

    It reads the numbers that MMEngine has just fetched for its log, so it
    costs no synchronisation of its own. Weights, their average, buffers and
    optimizer state are checked before they are saved: gradients can overflow
    where the loss did not.

    Args:
        interval (int): In distributed training, the processes compare their
            findings after so many iterations and at the end of every epoch,
            to stop together. Defaults to 50.
    """

    # After EMAHook, which exchanges weights in a checkpoint for their average,
    # and before the checkpoint hook.
    priority = 'LOW'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._streak = 0
        self._found: str | None = None
        self._constants: dict = {}

    def before_train(self, runner) -> None:
        model = runner.model
        self._constants = constant_infinities(model.module if is_model_wrapper(model) else model)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        scalars = runner.message_hub.log_scalars
        bad = [
            key
            for key in (outputs or ())
            if f'train/{key}' in scalars and not isfinite(scalars[f'train/{key}'].current())
        ]
        self._streak = self._streak + 1 if bad else 0
        allowed = SKIPPED_STEPS if hasattr(runner.optim_wrapper, 'loss_scaler') else 0
        if self._streak > allowed and self._found is None:
            self._found = (
                f'{", ".join(bad)} became NaN or infinite at '
                f'iteration {runner.iter + 1 - allowed} '
                f'(epoch {runner.epoch + 1})'
            )
        if get_world_size() == 1 or self.every_n_train_iters(runner, self.interval):
            self._stop_together(runner)

    def after_train_epoch(self, runner) -> None:
        self._stop_together(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        entry = nonfinite_entry(checkpoint, self._constants)
        if entry is not None:
            raise UserError(
                f'{entry} became NaN or infinite by iteration '
                f'{runner.iter}. {self._way_out(runner)}'
            )

    def _stop_together(self, runner) -> None:
        seen = torch.tensor(float(self._found is not None))
        all_reduce(seen, op='max')
        if not seen:
            return
        if not is_main_process():
            # Every process stops here; one of them prints the reason.
            raise SystemExit(1)
        found = self._found or 'a loss became NaN or infinite on another rank'
        raise UserError(f'{found}. {self._way_out(runner)}')

    def _way_out(self, runner) -> str:
        cfg = runner.cfg.get('optim_wrapper') or {}
        options = [
            option
            for option in (
                # Of no use where it is on already, or without float16.
                'optim_wrapper.clip_grad.max_norm=1.0' if 'clip_grad' not in cfg else '',
                'no --amp' if 'Amp' in str(cfg.get('type')) else '',
            )
            if option
        ]
        others = f'; or with {" or ".join(options)}' if options else ''
        lr = (cfg.get('optimizer') or {}).get('lr')
        lower = f'{LR}={lr / LOWER:g}' if lr else f'{LR}=...'

        saved = last_saved(runner.work_dir)
        good = self._last_good(runner.work_dir, saved)
        if saved is not None and good is None:
            return (
                f'There is no checkpoint to resume from, {saved} holds NaN or '
                'infinity or cannot be read: start again in another --work-dir '
                f'with a lower learning rate, --cfg-options {lower}{others}'
            )
        kept = f'The last good checkpoint is {good}' if good else ('No checkpoint had been saved')
        path = '' if good == saved else good
        return f'{kept}; to resume with a lower learning rate: {_command(path, lower)}{others}'

    def _last_good(self, work_dir: str, saved: str | None) -> str | None:
        """The newest checkpoint in which all is finite, the last one first."""
        if saved is None or '://' in saved or osp.isdir(saved):
            # Remote or sharded: checked when it was saved.
            return saved
        paths = glob(osp.join(escape(work_dir), '*.pth'))
        for path in [saved, *sorted(paths, key=osp.getmtime, reverse=True)]:
            try:
                content = read(path, 'cpu', mmap=True)
            except UserError:
                continue
            if (
                isinstance(content, dict)
                and 'optimizer' in content
                and (nonfinite_entry(content, self._constants) is None)
            ):
                return path
        return None


def _command(path: str | None, option: str) -> str:
    """The command that resumes from a path with one more ``--cfg-options``."""
    command = os.environ.get('POSLABEL_MM_RESUME_COMMAND', '')
    if not command.endswith(' --resume'):
        # That of a script whose options are not those of train.py.
        command = 'the same training command with --resume'
    if path:
        command += f' {path}'
    command = re.sub(rf' {re.escape(LR)}=\S+', '', command)
    if ' --cfg-options ' not in command:
        return f'{command} --cfg-options {option}'
    # If --cfg-options is given twice, only the last counts.
    return command.replace(' --cfg-options ', f' --cfg-options {option} ', 1)
