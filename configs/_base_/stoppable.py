# What lets a long run be stopped and gone on with.
custom_hooks = [
    dict(type='poslabel_mm.EpochSeedHook'),
    dict(type='poslabel_mm.NonFiniteLossHook'),
    dict(type='poslabel_mm.StopSignalHook'),
    dict(type='poslabel_mm.ResumeOptionsHook'),
]
