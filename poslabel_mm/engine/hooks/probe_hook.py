from abc import abstractmethod

from mmengine.config import Config
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from poslabel_mm import options
from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.frozen import frozen
from poslabel_mm.evaluation.probe_images import ProbeImages, probe_images


class ProbeHook(Hook):
    """Measures a frozen model's features now and then.

    Where there is a validation, the figures join its metrics: they are in its log line, in
    ``scalars.json`` and for ``save_best`` to choose. In a training without one, as of
    self-supervised algorithms, they are logged at the end of an epoch in the same way. A test gets
    them too. Training goes on as if nothing had happened: the model's mode and the random numbers
    are put back. In distributed training every process computes the features of its share of the
    images.

    Args:
        interval (int): Measure every so many epochs, at a validation if there is one, and always
            after the last epoch. A training by iterations is measured at every validation, or at
            its end. Defaults to 1.
        num_images (int, optional): At most so many images to fit on, and as many to score on,
            evenly spaced over their datasets. Defaults to None, the probe's own number.
        dataset (dict, optional): The dataset to fit on. Defaults to the config's training dataset,
            with the pipeline of its validation. A config without validation gets its training
            pipeline without what is random in it, and a centre crop.
        held_out (dict, optional): The dataset to score on. Defaults to that of the config's
            validation or test. Without one, every fifth image of ``dataset`` is held out.
        dataloader (dict, optional): ``batch_size`` and ``num_workers``. Default to the config's.
    """

    # Before the hook that writes down a validation's metrics, and the one that takes the averaged
    # weights out again.
    priority = 'HIGHEST'

    default_num_images: int
    # What the names of its figures begin with.
    prefix: str

    def __init__(
        self,
        interval: int = 1,
        num_images: int | None = None,
        dataset: dict | None = None,
        held_out: dict | None = None,
        dataloader: dict | None = None,
    ) -> None:
        self.interval = options.whole_number('interval', interval)
        self.num_images = options.whole_number(
            'num_images', self.default_num_images if num_images is None else num_images, least=2
        )
        self._data = dict(dataset=dataset, held_out=held_out, dataloader=dataloader)
        self._images: tuple[ProbeImages, ProbeImages] | None = None

    @abstractmethod
    def probe(
        self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages
    ) -> dict[str, float]:
        """Measure a model.

        Args:
            model (nn.Module): In evaluation, wrapped or not.
            fitted (ProbeImages): The images to fit on.
            held_out (ProbeImages): The images to score on.

        Returns:
            dict[str, float]: Figures by their names in the log.
        """

    def check(self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages) -> None:
        """Refuse, before training, what :meth:`probe` would refuse after an epoch.

        Args:
            model (nn.Module): As of :meth:`probe`.
            fitted (ProbeImages): As of :meth:`probe`.
            held_out (ProbeImages): As of :meth:`probe`.

        Raises:
            UserError: If the model or the images cannot be probed.
        """

    def measure(self, model: nn.Module, cfg: Config) -> dict[str, float]:
        """Measure a model on the images of a config.

        Args:
            model (nn.Module): Any of MMPretrain's, wrapped or not.
            cfg (Config): Where the images come from, unless the probe was given others.

        Returns:
            dict[str, float]: Figures by their names in the log, the same in every process.
        """
        with frozen(model):
            figures = [self.probe(model, *self._found_images(cfg))]
            broadcast_object_list(figures)
        return figures[0]

    def _found_images(self, cfg: Config) -> tuple[ProbeImages, ProbeImages]:
        if self._images is None:
            self._images = probe_images(cfg, self.num_images, **self._data)
        return self._images

    def before_train(self, runner) -> None:
        self._check_interval(runner)
        with frozen(runner.model):
            self.check(runner.model, *self._found_images(runner.cfg))

    def _check_interval(self, runner) -> None:
        """Refuse ``save_best`` by a figure that some validations do not have."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or runner.val_loop is None:
            return
        epochs = range(loop.val_begin, loop.max_epochs + 1)
        validated = [e for e in epochs if e % loop.val_interval == 0 or e == loop.max_epochs]
        if all(e % self.interval == 0 or e == loop.max_epochs for e in validated):
            return
        for hook in runner.hooks:
            asked = getattr(hook, 'save_best', None) or ()
            for name in [asked] if isinstance(asked, str) else asked:
                if name.startswith(self.prefix):
                    raise UserError(
                        f'save_best={name} needs a figure at every validation, and '
                        f'{type(self).__name__} measures every {self.interval} epochs: set its '
                        f'interval to 1, or train_cfg.val_interval to {self.interval}'
                    )

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        # Not the property: it would build the loop of a run that only validates.
        loop = runner._train_loop
        if metrics is None or isinstance(loop, EpochBasedTrainLoop) and not self._due(loop, 0):
            return
        metrics.update(self.measure(runner.model, runner.cfg))

    def after_test_epoch(self, runner, metrics: dict | None = None) -> None:
        if metrics is not None:
            metrics.update(self.measure(runner.model, runner.cfg))

    def after_train_epoch(self, runner) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        if runner.val_loop is not None or by_epoch and not self._due(loop, 1):
            return
        figures = self.measure(runner.model, runner.cfg)
        step = runner.epoch + 1 if by_epoch else runner.iter
        shown = '  '.join(f'{name}: {value:.4f}' for name, value in figures.items())
        runner.logger.info(f'{"Epoch" if by_epoch else "Iter"}(probe) [{step}]  {shown}')
        for name, value in figures.items():
            runner.message_hub.update_scalar(f'val/{name}', value)
        runner.visualizer.add_scalars(figures, step=step, file_path=f'{runner.timestamp}.json')

    def _due(self, loop: EpochBasedTrainLoop, unfinished: int) -> bool:
        epoch = loop.epoch + unfinished
        return epoch % self.interval == 0 or epoch == loop.max_epochs
