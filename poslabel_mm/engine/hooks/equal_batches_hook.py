import torch
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from poslabel_mm.errors import UserError
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class EqualBatchesHook(Hook):
    """Refuses distributed training in which ranks have unequal numbers of batches.

    The ranks average their gradients after every batch. One that has more
    batches than the others would wait for them until it is aborted. This
    project's tools add the hook to distributed training.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        if get_world_size() == 1 or not isinstance(runner.train_loop, EpochBasedTrainLoop):
            return
        own = torch.tensor(len(runner.train_dataloader))
        batches = [int(number) for number in all_gather(own)]
        if min(batches) != max(batches):
            raise UserError(
                f'the processes have {", ".join(map(str, batches))} batches an '
                'epoch and must have the same number: set '
                'train_dataloader.sampler.round_up=True, or drop_last=True'
            )
