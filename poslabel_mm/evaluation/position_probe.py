"""In which layers a model's tokens tell where their patches are.

Shape letters: B images, (H, W) patch grid, N = H·W.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.extraction import preprocessed
from poslabel_mm.evaluation.features import whole_image_outputs
from poslabel_mm.evaluation.frozen import call_with_whole_weights, inner_model
from poslabel_mm.evaluation.position_readout import SHUFFLE, PositionReadout, permutations
from poslabel_mm.evaluation.probe_images import ProbeImages
from poslabel_mm.tokens import PatchTokenReader, PatchTokens
from poslabel_mm.tokens.families import num_stages
from poslabel_mm.tokens.shuffled import shuffle_patches
from poslabel_mm.tokens.wrappers import unwrapped

LAST = 'last'


def position_r2(
    model: nn.Module, fitted: ProbeImages, held_out: ProbeImages, ridge: float
) -> dict[str, float]:
    """R² of ridge regressions from each layer's patch tokens to their rows and columns.

    Args:
        model (nn.Module): In evaluation, wrapped or not.
        fitted (ProbeImages): The images to fit on.
        held_out (ProbeImages): The images to score on.
        ridge (float): As of ``LinearReadout``.

    Returns:
        dict[str, float]: ``layer0`` and so on, counted as ``PatchTokenNeck`` counts stages, and
        ``last``, the tokens that position heads read. ``..._shuffled``: of images whose patches
        are shuffled, fitted anew; left out where the images cannot be cut along the grid.
        ``permuted``: the control of permuted coordinates, the one of all layers that is farthest
        from 0.

    Raises:
        UserError: If the model shows no patch tokens.
    """
    with layer_readers(inner_model(model)) as readers:
        of_fitted = _read(model, readers, fitted, ridge)
        # Other images have other random orders: their numbers go on.
        of_held_out = _read(model, readers, held_out, ridge, first_number=len(fitted))
    figures, controls = {}, []
    for name, readout in of_fitted.items():
        figures[name], control = readout.r2(of_held_out[name])
        controls.append(control)
    figures['permuted'] = max(controls, key=abs)
    return figures


@contextmanager
def layer_readers(model: nn.Module) -> Iterator[dict[str, PatchTokenReader]]:
    """Readers of every layer's patch tokens, for as long as the context lasts.

    Args:
        model (nn.Module): A model with a ``backbone``, not wrapped.

    Yields:
        dict[str, PatchTokenReader]: ``layer0`` and so on, and ``last``, the last tokens. Of a
        backbone whose layers cannot be read, ``last`` alone.

    Raises:
        UserError: If there is no backbone, or it has no patch grid.
    """
    if not isinstance(getattr(model, 'backbone', None), nn.Module):
        raise UserError(f'{type(model).__name__} has no backbone to read patch tokens from')
    with ExitStack() as opened:
        readers = {}
        stages = range(num_stages(unwrapped(model.backbone)))
        for name, stage in [*((f'layer{i}', i) for i in stages), (LAST, None)]:
            readers[name] = PatchTokenReader(model.backbone, stage)
            opened.callback(readers[name].close)
        yield readers


def _read(
    model: nn.Module,
    readers: dict[str, PatchTokenReader],
    images: ProbeImages,
    ridge: float,
    first_number: int = 0,
) -> dict[str, PositionReadout]:
    readouts: dict[str, PositionReadout] = {}

    def add(inputs: Tensor, numbers: Tensor, suffix: str = '') -> PatchTokens:
        real = numbers >= 0
        tokens = call_with_whole_weights(model, _tokens, readers, inputs)
        for name, of_layer in tokens.items():
            of_real = of_layer._replace(tokens=of_layer.tokens[real.to(inputs.device)])
            readout = readouts.setdefault(name + suffix, PositionReadout(ridge))
            readout.add(of_real, first_number + numbers[real])
        return tokens[LAST]

    for inputs, _, numbers in preprocessed(model, images):
        grid_shape = add(inputs, numbers).grid_shape
        if all(side % cells == 0 for side, cells in zip(inputs.shape[-2:], grid_shape)):
            order = permutations(SHUFFLE, first_number + numbers, math.prod(grid_shape))
            add(shuffle_patches(inputs, order, grid_shape), numbers, '_shuffled')
    for readout in readouts.values():
        readout.gather()
    return readouts


def _tokens(
    model: nn.Module, readers: dict[str, PatchTokenReader], images: Tensor
) -> dict[str, PatchTokens]:
    with ExitStack() as reading:
        for reader in readers.values():
            reading.enter_context(reader)
        whole_image_outputs(model, images)
    return {name: reader.take() for name, reader in readers.items()}
