from .atomic_checkpoint_hook import AtomicCheckpointHook
from .epoch_seed_hook import EpochSeedHook
from .equal_batches_hook import EqualBatchesHook
from .gradient_layout_hook import GradientLayoutHook
from .nonfinite_loss_hook import NonFiniteLossHook
from .resume_options_hook import ResumeOptionsHook
from .stop_signal_hook import StopSignalHook

__all__ = [
    'AtomicCheckpointHook',
    'EpochSeedHook',
    'EqualBatchesHook',
    'GradientLayoutHook',
    'NonFiniteLossHook',
    'ResumeOptionsHook',
    'StopSignalHook',
]
