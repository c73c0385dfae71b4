from mmengine.hooks import Hook

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.frozen import inner_model
from poslabel_mm.evaluation.position_metrics import (
    OffsetAccuracy,
    PositionAccuracy,
    PositionMetric,
    PositionR2,
)
from poslabel_mm.evaluation.position_passes import PositionPasses
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class PositionMetricsHook(Hook):
    """Adds position metrics to validation and test.

    In the passes that validation makes anyway, the position heads predict, and
    ``PositionAccuracy``, ``OffsetAccuracy`` and ``PositionR2`` join the metrics of the evaluator:
    their figures are in the log, in ``scalars.json`` and for ``save_best`` to choose. With
    test-time augmentation they are means over the views of an image. The model's predictions stay
    what they are. A model without position heads gets ``PositionR2`` alone.

    Args:
        r2_images (int): How many images ``PositionR2`` reads at most; 0 leaves it out. Defaults to
            5000.

    Raises:
        UserError: In training without validation, or of a model without a patch grid.

    Example:
        >>> default_hooks = dict(positions=dict(type='poslabel_mm.PositionMetricsHook'))
    """

    def __init__(self, r2_images: int = 5000) -> None:
        self.r2_images = options.whole_number('r2_images', r2_images, least=0)
        self._reading: PositionPasses | None = None
        self._told_views = False

    def before_train(self, runner) -> None:
        if runner.val_loop is None:
            raise UserError(
                'PositionMetricsHook reads what validation computes, and this config has no '
                'val_dataloader: add one, or take PositionProbeHook'
            )
        self._check(runner)

    def before_test(self, runner) -> None:
        self._check(runner)

    def _check(self, runner) -> None:
        """Refuse a model that cannot be read, before it works for an epoch."""
        PositionPasses(inner_model(runner.model)).close()

    def before_val_epoch(self, runner) -> None:
        self._start(runner.model, runner.val_loop)

    def before_test_epoch(self, runner) -> None:
        self._start(runner.model, runner.test_loop)

    def before_val_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._reading.passes.clear()
        self._reading.is_reading = True

    before_test_iter = before_val_iter

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        # Probes may run many more images before `after_val_epoch`.
        self._reading.is_reading = False
        views = len(self._reading.passes)
        if views > 1 and not self._told_views:
            self._told_views = True
            runner.logger.info(f'Position metrics are means over the {views} views of an image.')

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        self._stop()

    after_test_epoch = after_val_epoch

    def _stop(self) -> None:
        # Open too where a validation has ended in an error.
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _start(self, model, loop) -> None:
        self._stop()
        self._reading = PositionPasses(inner_model(model))
        self._reading.is_reading = False  # until the first batch
        metrics = loop.evaluator.metrics
        for kind in PositionAccuracy, OffsetAccuracy:
            if not any(isinstance(metric, kind) for metric in metrics):
                metrics.append(kind())
        if self.r2_images and not any(isinstance(metric, PositionR2) for metric in metrics):
            metrics.append(PositionR2(self.r2_images))
        for metric in metrics:
            if isinstance(metric, PositionMetric):
                metric.reading = self._reading
            if isinstance(metric, PositionR2):
                metric.size = len(loop.dataloader.dataset)
