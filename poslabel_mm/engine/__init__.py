from poslabel_mm.engine.cpu_amp_optim_wrapper import CPUAmpOptimWrapper
from poslabel_mm.engine.files import AtomicLocalBackend, write_atomically
from poslabel_mm.engine.hooks import (
    AtomicCheckpointHook,
    EpochSeedHook,
    EqualBatchesHook,
    GradientLayoutHook,
    KNNProbeHook,
    LinearProbeHook,
    NonFiniteLossHook,
    PositionMetricsHook,
    PositionProbeHook,
    RankMeHook,
    ResumeOptionsHook,
    ShufflePatchesHook,
    StopSignalHook,
)

__all__ = [
    'AtomicCheckpointHook',
    'AtomicLocalBackend',
    'CPUAmpOptimWrapper',
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
    'write_atomically',
]
