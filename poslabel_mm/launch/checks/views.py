"""Check that the data record the views that a head compares."""

from mmengine.config import Config
from mmengine.registry import DefaultScope

from poslabel_mm import options
from poslabel_mm.registry import TRANSFORMS

HEAD = 'ViewOffsetHead'


def check_views(cfg: Config) -> None:
    """Refuse a pipeline that does not record the views that a head compares.

    Args:
        cfg (Config): A complete training config.

    Raises:
        UserError: Naming the transform, and what to put in its place.
    """
    heads = (cfg.get('model') or {}).get('pos_head')
    heads = heads if isinstance(heads, (list, tuple)) else [heads]
    if not any(_type_name(head) == HEAD for head in heads):
        return
    key, dataset = 'train_dataloader.dataset', (cfg.get('train_dataloader') or {}).get('dataset')
    while isinstance(dataset, dict) and 'pipeline' not in dataset:
        key, dataset = f'{key}.dataset', dataset.get('dataset')
    for i, transform in enumerate((dataset or {}).get('pipeline') or ()):
        with options.within(f'{key}.pipeline.{i}'):
            name = _type_name(transform)
            if name == 'MultiView':
                raise options.OptionError(
                    'type',
                    f'={name} does not record where the views lie, which {HEAD} compares: set it '
                    "to 'poslabel_mm.RecordedMultiView', and the type of its crops to "
                    "'poslabel_mm.RecordedRandomResizedCrop'",
                )
            if name == 'RecordedMultiView':
                with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
                    views = TRANSFORMS.build(transform)
                if sum(views.num_views) < 2:
                    raise options.OptionError(
                        'num_views',
                        f'={transform["num_views"]} is one view alone, and {HEAD} compares views: '
                        'set 2 in all or more',
                    )
            if name == 'PackInputs' and 'view_boxes' not in transform.get('meta_keys', ()):
                raise options.OptionError(
                    'meta_keys', f" has no 'view_boxes', which {HEAD} reads: add it"
                )


def _type_name(part: object) -> str:
    kind = part.get('type') if isinstance(part, dict) else None
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')
