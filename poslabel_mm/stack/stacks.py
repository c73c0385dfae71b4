"""The two distributions of the MM stack and the version ranges that work.

Both provide the import names ``mmpretrain``, ``mmengine`` and ``mmcv``. Plain
data, imported by nothing heavy: ``setup.py`` makes its extras from it and
:mod:`poslabel_mm.stack.compat` checks the environment against it.
"""

#: ``{extra of setup.py: {distribution: version range}}``.
STACKS = {
    'onedl': {
        'onedl-mmpretrain': '>=1.3.6,<1.4',
        'onedl-mmengine': '>=0.10.12,<0.11',
        'onedl-mmcv': '>=2.3.6,<2.4',
    },
    'openmmlab': {
        'mmpretrain': '>=1.2,<2',
        'mmengine': '>=0.10.7,<1',
        'mmcv-lite': '>=2.0,<2.4',
        # MMEngine 0.10 imports pkg_resources, which setuptools 82 removed.
        'setuptools': '<82',
    },
}

#: Distributions that also serve: mmcv is mmcv-lite with compiled operators.
ALTERNATIVES = {'mmcv-lite': 'mmcv'}
