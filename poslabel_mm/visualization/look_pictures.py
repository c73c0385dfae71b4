"""What ``poslabel look`` draws of its models and images, and where it goes."""

import argparse
import copy
import os.path as osp
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from torch import Tensor

from poslabel_mm.engine.unwritable import make_folder
from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.position_metrics import place_distances
from poslabel_mm.launch.arguments import read_config
from poslabel_mm.launch.guard import Guard
from poslabel_mm.launch.vis_backends import check_backends
from poslabel_mm.stack.config_prefix import without_own_scope
from poslabel_mm.stack.image_errors import name_unreadable_images
from poslabel_mm.tokens import PlacePredictions
from poslabel_mm.tokens.shuffled import shuffle_patches
from poslabel_mm.visualization import features, jigsaw, position_map
from poslabel_mm.visualization.look import WHAT
from poslabel_mm.visualization.look_images import LookedImage, find_images, spread
from poslabel_mm.visualization.look_model import SavedModel
from poslabel_mm.visualization.sheet import render, save_png

BATCH = 32  # images at a time, where nothing is drawn of them


def look(args: argparse.Namespace) -> None:
    """Draw what the arguments ask for; see :mod:`poslabel_mm.visualization.look`.

    Raises:
        UserError: For weights or images that cannot be used, or pictures that the models do not
            have.
    """
    with Guard(), without_own_scope():
        name_unreadable_images()
        cfg = read_config(args.config, args.cfg_options)
        check_backends(cfg)
        images = find_images(cfg, args.images)
        models = [SavedModel(cfg, args.checkpoint, _model_name(args.checkpoint))]
        if args.against:
            other = cfg
            if args.against_config not in (None, args.config):
                other = read_config(args.against_config, None)
            models.append(SavedModel(other, args.against, _model_name(args.against)))
        what = _possible(args.what, models)
        make_folder(args.out)
        Album(args, cfg, models, images).draw(what)


def _model_name(checkpoint: str) -> str:
    folder, file = osp.split(osp.abspath(checkpoint))
    return f'{osp.basename(folder)}/{osp.splitext(file)[0]}'


def _possible(asked: Sequence[str] | None, models: Sequence[SavedModel]) -> list[str]:
    """Which pictures are drawn: those asked for, or those that the models have."""
    lacking = [model.without_heads for model in models if model.without_heads is not None]
    if asked is not None:
        of_heads = [name for name in asked if name != 'features']
        if len(lacking) == len(models) and of_heads:
            raise UserError(
                f'{lacking[0]}, which --what {" ".join(of_heads)} needs: its features can be '
                'shown, with --what features'
            )
        return list(asked)
    for reason in lacking:
        say_note(f'{reason}: of this model the features alone are shown')
    return ['features'] if len(lacking) == len(models) else list(WHAT)


def say_note(line: str) -> None:
    """Print a line about what is left out."""
    print(f'note: {line}', file=sys.stderr, flush=True)


class Album:
    """The pictures of some models on some images.

    Args:
        args (argparse.Namespace): The command's arguments.
        cfg (Config): The first model's.
        models (list[SavedModel]): One or two.
        images (list[LookedImage]): All that were named.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        cfg: Config,
        models: list[SavedModel],
        images: list[LookedImage],
    ) -> None:
        self.args, self.models, self.images = args, models, images
        self.pictured = spread(images, args.pictures)
        # A model of grey images need not turn them.
        self.is_bgr = models[0].is_rgb_flipped or any(image.is_bgr for image in images)
        self.visualizer = _visualizer(cfg, args.out)
        self.grid_shape = _common_grid(models, self.pictured[0].load()[None])

    def draw(self, what: Sequence[str]) -> None:
        """Draw some kinds of pictures, and print the files."""
        for kind in WHAT:
            if kind in what:
                try:
                    getattr(self, f'_draw_{kind}')()
                except UserError as error:
                    if self.args.what is not None:
                        raise
                    say_note(f'no {kind}: {error}')
        if self.visualizer is not None:
            self.visualizer.close()

    def _draw_map(self) -> None:
        for image in self.pictured:
            inputs = image.load()[None]
            rows = [
                position_map.MapRow(
                    label, predicted.places()[0].numpy(), place_distances(predicted)[0].numpy()
                )
                for label, predicted in self._predictions(inputs)
            ]
            shown = self._rgb(inputs)
            self._save(
                f'{image.name}_map',
                position_map.draw_map(image.name, shown, rows, self.grid_shape),
            )

    def _draw_jigsaw(self) -> None:
        generator = torch.Generator().manual_seed(self.args.seed)
        shares: dict[str, list[float]] = {}
        for image in self.pictured:
            inputs = image.load()[None]
            H, W = self.grid_shape
            order = torch.randperm(H * W, generator=generator)
            shuffled = shuffle_patches(inputs, order, self.grid_shape)
            rows = [
                row
                for model in self.models
                for row in self._jigsaw_rows(model, inputs, shuffled, order)
            ]
            for row in rows:
                shares.setdefault(row.label, []).append(float((row.places == row.order).mean()))
            encodings = {
                jigsaw.describe_encoding(model.backbone, self.args.encoding)
                for model in self.models
                if model.without_heads is None
            }
            encoding = '; '.join(sorted(encodings))
            figure = jigsaw.draw_jigsaw(image.name, encoding, rows, self.grid_shape)
            self._save(f'{image.name}_jigsaw', figure)
        for label, values in shares.items():
            print(
                f'jigsaw{_of(label)}: {100 * np.mean(values):.1f} % of the patches put right '
                f'({len(values)} image{"s" * (len(values) > 1)}; {encoding})'
            )

    def _jigsaw_rows(
        self, model: SavedModel, inputs: Tensor, shuffled: Tensor, order: Tensor
    ) -> Iterator[jigsaw.JigsawRow]:
        with jigsaw.encoding_as(model.backbone, self.args.encoding, order, self.grid_shape):
            predictions = model.predictions(shuffled)
            class_shuffled = model.class_texts(shuffled)
        for name, predicted in predictions.items():
            (places,) = jigsaw.solve(predicted.costs())
            restored = jigsaw.put_back(shuffled, places, self.grid_shape)
            classes = model.class_texts(torch.cat([inputs, restored]))
            if classes is not None:
                classes = (classes[0], class_shuffled[0], classes[1])
            yield jigsaw.JigsawRow(
                self._label(model, name, predictions),
                self._rgb(inputs),
                self._rgb(shuffled),
                self._rgb(restored),
                order.numpy(),
                places.numpy(),
                classes,
            )

    def _draw_features(self) -> None:
        H, W = self.grid_shape
        row, column = self.args.patch or (H // 2, W // 2)
        if row >= H or column >= W:
            raise UserError(
                f'--patch {row} {column} is outside of the {H}x{W} patches: rows are counted from '
                f'0 to {H - 1}, columns to {W - 1}'
            )
        place = row * W + column
        rows: list[list[features.FeatureRow]] = [[] for _ in self.pictured]
        for model in self.models:
            tokens, attention = [], []
            for image in self.pictured:
                inputs = image.load()[None]
                tokens.append(model.tokens(inputs).tokens.cpu())
                attention.append(model.attention(inputs))
            if isinstance(attention[0], str):
                say_note(f'{attention[0]}: no attention is shown of {model.name}')
            tokens = torch.cat(tokens)
            colours = features.principal_colours(tokens)
            similar = features.similarity(tokens, place)
            for i, of_image in enumerate(rows):
                own = attention[i]
                of_image.append(
                    features.FeatureRow(
                        model.name if len(self.models) > 1 else '',
                        colours[i].numpy(),
                        similar[i].numpy(),
                        own if isinstance(own, str) else own[0].numpy(),
                    )
                )
        for image, of_image in zip(self.pictured, rows):
            shown = self._rgb(image.load()[None])
            figure = features.draw_features(image.name, shown, place, of_image, self.grid_shape)
            self._save(f'{image.name}_features', figure)

    def _draw_errors(self) -> None:
        images = spread(self.images, self.args.at_most)
        sums: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for inputs in _batches(images):
            for label, predicted in self._predictions(inputs):
                right = (predicted.places() == predicted.true_places).float().sum(0).numpy()
                distance = place_distances(predicted).sum(0).numpy()
                before = sums.get(label, (0, 0))
                sums[label] = before[0] + distance, before[1] + right
        rows = [
            position_map.CellErrors(
                label,
                distance.reshape(self.grid_shape) / len(images),
                right.reshape(self.grid_shape) / len(images),
            )
            for label, (distance, right) in sums.items()
        ]
        self._save('errors', position_map.draw_cell_errors(len(images), rows))
        for row in rows:
            print(
                f'places{_of(row.label)}: {100 * row.right.mean():.1f} % right, '
                f'{row.distance.mean():.2f} patches off on average '
                f'({len(images):,} image{"s" * (len(images) > 1)})'
            )

    def _predictions(self, inputs: Tensor) -> Iterator[tuple[str, PlacePredictions]]:
        """What the heads of all models predict, with the label of each."""
        for model in self.models:
            predictions = model.predictions(inputs)
            for name, predicted in predictions.items():
                yield self._label(model, name, predictions), predicted

    def _label(self, model: SavedModel, head: str, heads: dict) -> str:
        parts = [model.name] * (len(self.models) > 1) + [head] * (len(heads) > 1)
        return ' '.join(parts)

    def _rgb(self, inputs: Tensor) -> np.ndarray:
        """An input (1, channels, height, width) as it is shown."""
        image = inputs[0].float().clamp(0, 255).byte()
        if self.is_bgr and len(image) == 3:
            image = image.flip(0)
        return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()

    def _save(self, name: str, figure: Figure) -> None:
        pixels = render(figure)
        path = self.args.out / f'{name}.png'
        save_png(pixels, path)
        print(path, flush=True)
        if self.visualizer is not None:
            self.visualizer.add_image(name, pixels)


def _of(label: str) -> str:
    return f' of {label}' if label else ''


def _batches(images: Sequence[LookedImage]) -> Iterator[Tensor]:
    """The images, several of one size at a time."""
    batch: list[Tensor] = []
    for image in images:
        loaded = image.load()
        if batch and (len(batch) == BATCH or loaded.shape != batch[0].shape):
            yield torch.stack(batch)
            batch = []
        batch.append(loaded)
    if batch:
        yield torch.stack(batch)


def _common_grid(models: Sequence[SavedModel], inputs: Tensor) -> tuple[int, int]:
    grids = [tuple(model.tokens(inputs).grid_shape) for model in models]
    if len(set(grids)) > 1:
        (a, b), (c, d) = grids
        raise UserError(
            f'{models[0].checkpoint} sees {a}x{b} patches and {models[1].checkpoint} {c}x{d}: '
            'look at them one by one'
        )
    return grids[0]


def _visualizer(cfg: Config, out: Path):
    """The config's visualizer with its backends but the local one, whose files are there."""
    options = copy.deepcopy(cfg.get('visualizer'))
    if not isinstance(options, dict):
        return None
    backends = options.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    elsewhere = [b for b in backends if not str(b.get('type')).endswith('LocalVisBackend')]
    if not elsewhere:
        return None
    options.update(vis_backends=elsewhere, save_dir=str(out), name=f'look_{id(options)}')
    return VISUALIZERS.build(options)
