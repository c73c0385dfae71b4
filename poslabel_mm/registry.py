"""Registry nodes of poslabel_mm.

Each is a child of MMEngine's *root* registry, so that
``type='poslabel_mm.PositionalLabelHead'`` resolves from any MM project's scope
without ``custom_imports``: the registry imports ``poslabel_mm.registry`` when
it meets the prefix, and ``locations`` imports the modules on first use.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPERS', 'TRANSFORMS']


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(
        parent.name,
        parent=parent,
        scope='poslabel_mm',
        locations=[f'poslabel_mm.{location}' for location in locations],
    )


MODELS = _child(MMENGINE_MODELS, 'models')
DATASETS = _child(
    MMENGINE_DATASETS,
    'datasets.decoded_images',
    'datasets.digits',
    'datasets.fashion_mnist',
    'datasets.fashion_mnist_scenes',
    'datasets.fraction_dataset',
)
HOOKS = _child(MMENGINE_HOOKS, 'engine')
METRICS = _child(MMENGINE_METRICS, 'evaluation.position_metrics')
OPTIM_WRAPPERS = _child(MMENGINE_OPTIM_WRAPPERS, 'engine')
TRANSFORMS = _child(MMENGINE_TRANSFORMS, 'datasets.load_missing_image', 'datasets.views')
