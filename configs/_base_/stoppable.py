# Hooks with which a long run can be stopped and resumed.
custom_hooks = [
    dict(type='poslabel_mm.EpochSeedHook'),
    dict(type='poslabel_mm.NonFiniteLossHook'),
    dict(type='poslabel_mm.StopSignalHook'),
    dict(type='poslabel_mm.ResumeOptionsHook'),
]
