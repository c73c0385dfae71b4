"""Checks of options of a config that must agree."""

from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import METRICS, init_default_scope

from poslabel_mm.errors import UserError


def check_auto_scale_lr(cfg: Config) -> None:
    """Check that a learning rate to be scaled has the batch size that it was chosen for.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: If ``auto_scale_lr`` is enabled without a positive
            ``base_batch_size``, or without a batch size to scale to.
    """
    auto_scale_lr = cfg.get('auto_scale_lr') or {}
    if not auto_scale_lr.get('enable'):
        return
    base = auto_scale_lr.get('base_batch_size')
    if not _is_positive(base):
        found = 'is not set' if base is None else f'is {base!r}, no number above 0'
        raise UserError(
            f'the learning rate cannot be scaled (--auto-scale-lr): auto_scale_lr.base_batch_size '
            f'{found}; give the batch size that the learning rate was chosen for with '
            '--cfg-options auto_scale_lr.base_batch_size=N'
        )
    if not _is_positive(cfg.train_dataloader.get('batch_size')):
        raise UserError(
            'the learning rate cannot be scaled (--auto-scale-lr): train_dataloader has no '
            'batch_size to scale it to; set optim_wrapper.optimizer.lr without --auto-scale-lr'
        )


def check_num_classes(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Check that all options that hold the number of classes agree with the model's head.

    Users change ``model.head.num_classes`` and easily forget the others. A number that nothing
    reads may differ.

    Args:
        cfg (Config): A complete config.
        loaders (tuple[str]): Which of its data loaders are used.

    Raises:
        UserError: With the key that differs and both numbers, or with the evaluator that ranks
            more classes than there are.
    """
    head = (cfg.get('model') or {}).get('head')
    expected = head.get('num_classes') if isinstance(head, dict) else None
    if not _is_positive(expected):
        return
    wrong = {key: found for key, found in counted_classes(cfg, loaders) if found != expected}
    if wrong:
        found = ', '.join(f'{key} is {value or "not set"}' for key, value in wrong.items())
        options = ' '.join(f'{key}={expected}' for key in wrong)
        raise UserError(
            f'model.head.num_classes is {expected}, but {found}: change them '
            f'together, --cfg-options {options}'
        )
    # For names without a prefix, such as `type='Accuracy'`.
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for key, metric in metrics_of(cfg, loaders):
        topk = (metric.get('topk') or 0) if ranks_classes(metric) else 0
        most = topk if isinstance(topk, int) else max(topk)
        if most > expected:
            raise UserError(
                f'{key}.topk asks for the best {most} of {expected} classes '
                f'(model.head.num_classes): set --cfg-options {key}.topk=1'
            )


def counted_classes(cfg: Config, loaders: tuple[str, ...]) -> Iterator[tuple[str, int | None]]:
    """Yield the options beside the head's that hold the number of classes and are read.

    Args:
        cfg (Config): A complete config whose model has a head.
        loaders (tuple[str]): Which of its data loaders are used.

    Yields:
        tuple[str, int | None]: A key and its value; None if it is needed but not set.
    """
    model = cfg.model
    if 'train_dataloader' in loaders:
        # The model's own comes first, and only one is used.
        preprocessor, key = model.get('data_preprocessor'), 'model.data_preprocessor'
        if preprocessor is None:
            preprocessor, key = cfg.get('data_preprocessor') or {}, 'data_preprocessor'
        kind = str(preprocessor.get('type', 'ClsDataPreprocessor'))
        augments = preprocessor.get(
            'batch_augments', (model.get('train_cfg') or {}).get('augments')
        )
        if 'ClsDataPreprocessor' in kind and (augments or preprocessor.get('to_onehot')):
            # One-hot labels; without the number each batch has a width of its own.
            yield f'{key}.num_classes', preprocessor.get('num_classes')
    yield from _given('model.head.loss', model.head.get('loss'))
    for key, metric in metrics_of(cfg, loaders):
        if metric.get('num_classes') is not None:
            yield f'{key}.num_classes', metric['num_classes']


def metrics_of(cfg: Config, loaders: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield the metrics of the evaluators with their keys."""
    for loader in loaders:
        key = loader.replace('_dataloader', '_evaluator')
        evaluator = cfg.get(key)
        if isinstance(evaluator, dict):
            yield key, evaluator
        elif isinstance(evaluator, (list, tuple)):
            yield from (
                (f'{key}.{i}', metric)
                for i, metric in enumerate(evaluator)
                if isinstance(metric, dict)
            )


def ranks_classes(metric: dict) -> bool:
    """Whether ``topk`` of a metric counts classes, and not, for example, retrieved images.

    Args:
        metric (dict): Its config.
    """
    from mmpretrain.evaluation import Accuracy, MultiLabelMetric

    kind = metric.get('type')
    if isinstance(kind, str):
        with METRICS.switch_scope_and_registry(metric.get('_scope_')) as registry:
            kind = registry.get(kind)
    return isinstance(kind, type) and issubclass(kind, (Accuracy, MultiLabelMetric))


def _given(key: str, losses: dict | list | None) -> Iterator[tuple[str, int]]:
    """Yield ``num_classes`` of a loss and of the losses in it, where it is set."""
    if isinstance(losses, dict):
        if losses.get('num_classes') is not None:
            yield f'{key}.num_classes', losses['num_classes']
        items = losses.items()
    else:
        items = enumerate(losses or ())
    for name, inner in items:
        if isinstance(inner, (dict, list)):
            yield from _given(f'{key}.{name}', inner)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and value > 0
