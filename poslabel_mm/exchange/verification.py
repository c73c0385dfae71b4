"""Whether what was written computes what the source model computes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from poslabel_mm.errors import UserError

#: Of the largest output, in float64: an order of additions may differ, a weight may not.
BOUND_FLOAT64 = 1e-9
#: The same in float32, for programs that cannot run in float64.
BOUND_FLOAT32 = 1e-4

Function = Callable[[Tensor], Tensor]


def verify_model(
    source: nn.Module,
    written: nn.Module,
    run: Callable[[nn.Module, Tensor], Tensor],
    images: Tensor,
) -> str:
    """Compare a model that was built from a written file with the source.

    The outputs are to be equal in float32. Where the arithmetic is another, they are compared in
    float64, to which both models are changed.

    Args:
        source (nn.Module): From images to outputs.
        written (nn.Module): The model of the other library.
        run (Callable): Gives the outputs of the other model for images.
        images (Tensor): Float32.

    Returns:
        str: What was found.

    Raises:
        UserError: If the outputs differ.
    """
    with torch.no_grad():
        expected, found = source(images), run(written, images)
        difference = _difference(expected, found)
        if difference == 0:
            return f'{_what(images, expected)} are equal (largest difference 0.0)'
        double = images.double()
        expected, found = source.double()(double), run(written.double(), double)
    precise = _difference(expected, found)
    _check(precise, expected, BOUND_FLOAT64, 'float64')
    return (
        f'{_what(images, expected)} differ by at most {precise:.1e} in float64 (bound '
        f'{_bound(expected, BOUND_FLOAT64):.1e}) and {difference:.1e} in float32'
    )


def verify_program(source: nn.Module, program: Function, batches: Sequence[Tensor]) -> str:
    """Compare a program that was written with the source, at several batch sizes.

    Args:
        source (nn.Module): From images to outputs.
        program (Callable): The program, read from the file.
        batches (Sequence[Tensor]): Images; float32.

    Returns:
        str: What was found.

    Raises:
        UserError: If it fails at one of the sizes, or the outputs differ.
    """
    differences = []
    sizes = ', '.join(str(len(images)) for images in batches)
    for images in batches:
        with torch.no_grad():
            expected = source(images)
        try:
            found = program(images)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f'not exported: the program fails at a batch of {len(images)}: {reason}'
            ) from error
        differences.append(_difference(expected, found))
        _check(differences[-1], expected, BOUND_FLOAT32, f'a batch of {len(images)}')
    if not any(differences):
        return f'outputs at batches of {sizes} are equal (largest difference 0.0)'
    return (
        f'outputs at batches of {sizes} differ by at most {max(differences):.1e} in float32 '
        f'(bound {_bound(expected, BOUND_FLOAT32):.1e})'
    )


def _what(images: Tensor, outputs: Tensor) -> str:
    kind = 'class scores' if outputs.dim() == 2 else 'tokens'
    return f'{kind} of {len(images)} images'


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        raise UserError(
            f'not exported: the written model gives outputs of shape {tuple(found.shape)}, the '
            f'source of {tuple(expected.shape)}'
        )
    return float((expected - found).abs().max())


def _bound(expected: Tensor, relative: float) -> float:
    return relative * float(expected.abs().max())


def _check(difference: float, expected: Tensor, relative: float, where: str) -> None:
    bound = _bound(expected, relative)
    if not difference <= bound:
        raise UserError(
            f'not exported: the outputs of what was written differ from the source by '
            f'{difference:.1e} in {where} (bound {bound:.1e})'
        )
