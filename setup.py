"""Packaging. Settings that are data are in pyproject.toml."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def constants(module):
    """Names of a module that imports nothing; the package needs torch."""
    return runpy.run_path(str(ROOT / 'poslabel_mm' / f'{module}.py'))


stacks = {
    name: [distribution + versions for distribution, versions in ranges.items()]
    for name, ranges in constants('stack/stacks')['STACKS'].items()
}

readme = ROOT / 'README.md'
setup(
    name='poslabel_mm',
    version=constants('version')['__version__'],
    description='Positional labels for vision transformers, a plugin for MMPretrain',
    long_description=readme.read_text('utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    entry_points={'console_scripts': ['poslabel = poslabel_mm.cli:main']},
    packages=find_packages(include=['poslabel_mm', 'poslabel_mm.*']),
    # Links to the checkout's configs and tools: real files once packed.
    package_data={
        'poslabel_mm': [
            '.mim/*.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/tools/**/*.py',
            '.mim/tools/**/*.sh',
        ]
    },
    # Neither MM stack: requiring one would overwrite a user's other one.
    install_requires=[
        'torch>=2.6',
        'torchvision>=0.21',
        'numpy',
        'packaging',
        'pillow',
        'rich',
        'scipy',
    ],
    extras_require={
        **stacks,
        # MMSelfSup 1.0 on the openmmlab stack; it has mmcls for a base, and
        # MMPretrain beside it for the position heads.
        'mmselfsup': [
            'mmselfsup==1.0.0',
            'mmcls==1.0.0rc6',
            'mmcv-lite==2.0.1',
            'attrs',
            'mmpretrain>=1.2,<2',
            'mmengine>=0.10.7,<1',
            'setuptools<82',
        ],
        # MMSegmentation on the onedl stack.
        'mmseg': ['onedl-mmsegmentation>=1.4.2,<1.5', *stacks['onedl']],
        # MMDetection on the onedl stack; ninja and setuptools are for MMCV's operators.
        'mmdet': ['onedl-mmdetection>=3.5.1,<3.6', 'ninja', 'setuptools>=80', *stacks['onedl']],
        # The digits example and MMPretrain's analysis tools.
        'tools': [
            # browse_dataset breaks on 3.11.
            'matplotlib<3.11',
            'grad-cam',
            'pandas',
            'scikit-learn>=1.5',
        ],
        # `poslabel export` and `poslabel import`; --to stock and torch-export need none of them.
        'exchange': [
            'onnx',
            'onnxruntime',
            'onnxscript',
            'safetensors',
            'timm>=1.0',
            'transformers>=4.40',
        ],
        # NesT, through MMPretrain's TIMMBackbone.
        'nest': ['timm>=1.0'],
        'test': [
            'hypothesis',
            'ipykernel',
            'nbclient',
            'pytest',
            'pytest-xdist',
            'ruff',
            'scikit-learn>=1.5',
            'setuptools>=77',
            'tensorboard',
            'timm>=1.0',
        ],
    },
)
