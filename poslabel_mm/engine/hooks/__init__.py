from .atomic_checkpoint_hook import AtomicCheckpointHook
from .epoch_seed_hook import EpochSeedHook
from .equal_batches_hook import EqualBatchesHook
from .gradient_layout_hook import GradientLayoutHook
from .knn_probe_hook import KNNProbeHook
from .linear_probe_hook import LinearProbeHook
from .nonfinite_loss_hook import NonFiniteLossHook
from .position_metrics_hook import PositionMetricsHook
from .position_probe_hook import PositionProbeHook
from .rankme_hook import RankMeHook
from .resume_options_hook import ResumeOptionsHook
from .shuffle_patches_hook import ShufflePatchesHook
from .stop_signal_hook import StopSignalHook

__all__ = [
    'AtomicCheckpointHook',
    'EpochSeedHook',
    'EqualBatchesHook',
    'GradientLayoutHook',
    'KNNProbeHook',
    'LinearProbeHook',
    'NonFiniteLossHook',
    'PositionMetricsHook',
    'PositionProbeHook',
    'RankMeHook',
    'ResumeOptionsHook',
    'ShufflePatchesHook',
    'StopSignalHook',
]
