from .atomic_file import AtomicLocalBackend, write_atomically
from .cpu_amp_optim_wrapper import CPUAmpOptimWrapper
from .hooks import (AtomicCheckpointHook, EpochSeedHook, EqualBatchesHook,
                    NonFiniteLossHook, ResumeOptionsHook, StopSignalHook)

__all__ = [
    'AtomicCheckpointHook', 'AtomicLocalBackend', 'CPUAmpOptimWrapper',
    'EpochSeedHook', 'EqualBatchesHook', 'NonFiniteLossHook',
    'ResumeOptionsHook', 'StopSignalHook',
    'write_atomically'
]
