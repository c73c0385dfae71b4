"""The images that probes look at: a part of a dataset, spread over the processes."""

from collections.abc import Iterator
from weakref import WeakValueDictionary

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset, default_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from poslabel_mm.errors import UserError

# In training pipelines, what every image goes through alike.
ALWAYS = ('Load', 'Resize', 'CenterCrop', 'Pad')

# Several probes of a run look at the same datasets. A list of ImageNet's files takes seconds.
_BUILT: WeakValueDictionary = WeakValueDictionary()


class ProbeImages:
    """Some of a dataset's images, in order.

    Args:
        dataset (Dataset): With MMPretrain's samples: 'inputs' and 'data_samples'.
        indices (list[int]): Which of its images.
        loader (dict): ``batch_size`` and ``num_workers``.
        name (str): Of the dataset, for messages.
    """

    def __init__(self, dataset: Dataset, indices: list[int], loader: dict, name: str) -> None:
        self._dataset, self._indices, self._loader, self.name = dataset, indices, loader, name

    def __len__(self) -> int:
        """Number of images, of all processes."""
        return len(self._indices)

    def first(self) -> dict:
        """The first image's sample."""
        return self._dataset[self._indices[0]]

    def batches(self) -> Iterator[tuple[dict, Tensor]]:
        """This process's share of the images.

        Every process has as many batches, of as many images.

        Yields:
            tuple[dict, Tensor]: A batch for the data preprocessor, and int64 (B,), the number of
            each image among those of all processes; -1 for one that only fills the batch.
        """
        share = _Share(self._dataset, self._indices, get_rank(), get_world_size())
        for batch in DataLoader(share, collate_fn=default_collate, **self._loader):
            yield batch, batch.pop('number')


class _Share(Dataset):
    def __init__(self, dataset: Dataset, indices: list[int], rank: int, processes: int) -> None:
        self._dataset, self._indices = dataset, indices
        self._rank, self._processes = rank, processes

    def __len__(self) -> int:
        return -(-len(self._indices) // self._processes)

    def __getitem__(self, position: int) -> dict:
        number = position * self._processes + self._rank
        filling = number >= len(self._indices)
        sample = self._dataset[self._indices[0 if filling else number]]
        return {**sample, 'number': -1 if filling else number}


def probe_images(
    cfg: Config,
    num_images: int,
    dataset: dict | None = None,
    held_out: dict | None = None,
    dataloader: dict | None = None,
) -> tuple[ProbeImages, ProbeImages]:
    """The images that a probe is fitted on, and those that it is scored on.

    Args:
        cfg (Config): Where defaults come from.
        num_images (int): At most so many of each dataset, evenly spaced.
        dataset (dict, optional): To fit on. Defaults to the training dataset, with the pipeline of
            validation or test. A config that has neither gets the training pipeline without what
            is random in it, and a centre crop of the size that training has. A dataset that is
            given without a pipeline gets the same.
        held_out (dict, optional): To score on. Defaults to the dataset of validation, or of test.
            A config that has neither keeps every fifth image of ``dataset`` for it.
        dataloader (dict, optional): ``batch_size`` and ``num_workers``. Default to those of
            validation, test or training.

    Returns:
        tuple[ProbeImages, ProbeImages]: To fit on, and to score on.

    Raises:
        UserError: If there is no dataset.
    """
    loaders = [
        cfg[name]
        for name in ('val_dataloader', 'test_dataloader', 'train_dataloader')
        if cfg.get(name) is not None
    ]
    training = cfg.get('train_dataloader')
    evaluated = None if not loaders or loaders[0] is training else loaders[0]

    def with_usual_pipeline(dataset: dict) -> dict:
        return _with_pipeline(
            dataset,
            _plain_pipeline(training.dataset)
            if evaluated is None
            else _pipelines(evaluated.dataset)[0],
        )

    if dataset is None:
        if training is None:
            raise UserError(
                'the config has no train_dataloader: give the probe images to fit on, dataset=...'
            )
        dataset = with_usual_pipeline(training.dataset)
    elif loaders and _lacks_pipeline(dataset):
        dataset = with_usual_pipeline(dataset)
    if held_out is None and evaluated is not None:
        held_out = evaluated.dataset
    elif held_out is not None and loaders and _lacks_pipeline(held_out):
        held_out = with_usual_pipeline(held_out)
    loader = dict(
        {
            name: loaders[0].get(name, default) if loaders else default
            for name, default in (('batch_size', 64), ('num_workers', 0))
        },
        **dataloader or {},
    )
    fitted = _build(dataset)
    indices = _spaced(len(fitted), num_images)
    if held_out is not None:
        scored = _build(held_out)
        return (
            ProbeImages(fitted, indices, loader, _name(dataset)),
            ProbeImages(scored, _spaced(len(scored), num_images), loader, _name(held_out)),
        )
    if len(indices) < 5:
        raise UserError(f'{_name(dataset)} has {len(indices)} images; a probe needs 5 or more')
    held = set(indices[4::5])
    return (
        ProbeImages(fitted, [i for i in indices if i not in held], loader, _name(dataset)),
        ProbeImages(fitted, sorted(held), loader, _name(dataset)),
    )


def _build(cfg: dict) -> Dataset:
    dataset = _BUILT.get(repr(cfg))
    if dataset is None:
        dataset = _BUILT[repr(cfg)] = DATASETS.build(cfg)
    return dataset


def _spaced(length: int, most: int) -> list[int]:
    count = min(length, most)
    return [i * length // count for i in range(count)]


def _name(dataset: dict) -> str:
    name = str(dataset.get('type'))
    details = [str(dataset[key]) for key in ('data_root', 'split') if dataset.get(key)]
    return f'{name} ({", ".join(details)})' if details else name


def _pipelines(dataset: dict) -> list[list]:
    """The pipelines of a dataset and of those that it wraps."""
    found = [dataset['pipeline']] if 'pipeline' in dataset else []
    inner = dataset.get('datasets') or [dataset.get('dataset')]
    for one in inner:
        if isinstance(one, dict):
            found += _pipelines(one)
    if not found:
        raise UserError(
            f'{dataset.get("type")} has no pipeline: give the probe images, dataset=...'
        )
    return found


def _lacks_pipeline(dataset: dict) -> bool:
    """Whether a dataset of MMEngine's, which takes a pipeline, was given none."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(dataset.get('_scope_')) as registry:
            kind = registry.get(kind)
    is_base = isinstance(kind, type) and issubclass(kind, BaseDataset)
    return is_base and 'pipeline' not in dataset


def _with_pipeline(dataset: dict, pipeline: list) -> dict:
    dataset = dict(dataset)
    if 'pipeline' in dataset or not {'dataset', 'datasets'} & dataset.keys():
        dataset['pipeline'] = pipeline
    if isinstance(dataset.get('dataset'), dict):
        dataset['dataset'] = _with_pipeline(dataset['dataset'], pipeline)
    if 'datasets' in dataset:
        dataset['datasets'] = [_with_pipeline(one, pipeline) for one in dataset['datasets']]
    return ConfigDict(dataset)


def _plain_pipeline(dataset: dict) -> list[dict]:
    """A training pipeline without what is random, for images of the size that it gives."""
    inputs = _build(dataset)[0]['inputs']
    while not isinstance(inputs, torch.Tensor):
        inputs = inputs[0]  # of several views the first
    height, width = inputs.shape[-2:]
    kept = []
    for transform in _pipelines(dataset)[0]:
        name = str(transform['type']).rpartition('.')[2]
        if not name.startswith(ALWAYS):
            break
        kept.append(transform)
    return [
        *kept,
        dict(type='mmpretrain.ResizeEdge', scale=height, edge='short')
        if height == width
        else dict(type='mmpretrain.Resize', scale=(width, height)),
        dict(type='mmpretrain.CenterCrop', crop_size=(height, width)),
        dict(type='mmpretrain.PackInputs'),
    ]
