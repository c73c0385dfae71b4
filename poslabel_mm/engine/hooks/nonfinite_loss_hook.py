from math import isfinite
from typing import Optional

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook

from poslabel_mm.errors import UserError
from poslabel_mm.registry import HOOKS
from .last_saved import last_saved

# A loss scaler skips the step of a batch that overflowed in float16 and goes
# on: only a run of them means that the weights are lost.
SKIPPED_STEPS = 20


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stops training at a NaN or infinite loss, before it reaches a file.

    It reads the numbers that MMEngine has just fetched for its log, so it
    costs no synchronisation of its own. What is about to be saved is looked
    at once more: gradients can overflow where the loss did not.

    Args:
        interval (int): In distributed training, the iterations after which
            the processes tell each other what they saw, to stop together. They
            also do at the end of every epoch. Defaults to 50.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._streak = 0
        self._found: Optional[str] = None

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch=None,
                         outputs: Optional[dict] = None) -> None:
        scalars = runner.message_hub.log_scalars
        bad = [
            key for key in (outputs or ()) if f'train/{key}' in scalars
            and not isfinite(scalars[f'train/{key}'].current())
        ]
        self._streak = self._streak + 1 if bad else 0
        allowed = SKIPPED_STEPS if hasattr(runner.optim_wrapper,
                                           'loss_scaler') else 0
        if self._streak > allowed and self._found is None:
            self._found = (f'{", ".join(bad)} became NaN or infinite at '
                           f'iteration {runner.iter + 1 - allowed} '
                           f'(epoch {runner.epoch + 1})')
        if get_world_size() == 1 or self.every_n_train_iters(
                runner, self.interval):
            self._stop_together(runner)

    def after_train_epoch(self, runner) -> None:
        self._stop_together(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        parameters = {
            name.removeprefix('module.')
            for name, _ in runner.model.named_parameters()
        }
        for name, value in checkpoint['state_dict'].items():
            if name in parameters and not torch.isfinite(value).all():
                raise UserError(
                    f'the weights {name} became NaN or infinite by iteration '
                    f'{runner.iter}. {self._way_out(runner)}')

    def _stop_together(self, runner) -> None:
        seen = torch.tensor(float(self._found is not None))
        all_reduce(seen, op='max')
        if not seen:
            return
        if not is_main_process():
            # Every process stops here; one of them says why.
            raise SystemExit(1)
        found = self._found or 'a loss became NaN or infinite on another rank'
        raise UserError(f'{found}. {self._way_out(runner)}')

    @staticmethod
    def _way_out(runner) -> str:
        saved = last_saved(runner.work_dir)
        kept = f'The last good checkpoint is {saved}' if saved else (
            'No checkpoint had been saved')
        return (f'{kept}; go on with a lower learning rate '
                '(--cfg-options optim_wrapper.optimizer.lr=...), with '
                'optim_wrapper.clip_grad.max_norm=1.0, or without --amp')
