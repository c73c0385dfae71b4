"""Whether what was written computes what the source model computes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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
    classifiers: Sequence[tuple[nn.Module, nn.Module]] = (),
) -> str:
    """Compare a model that was built from a written file with the source.

    The outputs are to be equal in float32. Where the arithmetic is another, they are compared in
    float64, to which both models are changed. The features before a classifier are compared too:
    a classifier that starts with zeros gives the same scores for all of them.

    Args:
        source (nn.Module): From images to outputs.
        written (nn.Module): The model of the other library.
        run (Callable): Gives the outputs of the other model for images.
        images (Tensor): Float32.
        classifiers (Sequence[tuple[nn.Module, nn.Module]]): The last layers of the source, each
            with its counterpart in the other model.

    Returns:
        str: What was found.

    Raises:
        UserError: If the outputs or the features differ.
    """
    ours, theirs = [own for own, _ in classifiers], [other for _, other in classifiers]

    def compare(images: Tensor) -> tuple[list[float], list[Tensor]]:
        with torch.no_grad(), _inputs(ours) as expected, _inputs(theirs) as found:
            expected.append(source(images))
            found.append(run(written, images))
        if len(expected) != len(found):
            raise UserError('not exported: the written model runs another number of classifiers')
        return list(map(_difference, expected, found)), expected

    differences, outputs = compare(images)
    features = ' and the features before the classifier' if classifiers else ''
    what = f'{_what(images, outputs[-1])}{features}'
    if not any(differences):
        return f'{what} are equal (largest difference 0.0)'
    source.double(), written.double()
    precise, outputs = compare(images.double())
    for difference, expected in zip(precise, outputs):
        _check(difference, expected, BOUND_FLOAT64, 'float64')
    bound = min(_bound(expected, BOUND_FLOAT64) for expected in outputs)
    return (
        f'{what} differ by at most {max(precise):.1e} in float64 (bound {bound:.1e}) and '
        f'{max(differences):.1e} in float32'
    )


@contextmanager
def _inputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A context that gives a list to which each of the modules adds its input when it runs."""
    seen: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(1)))
        for module in modules
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def verify_program(source: nn.Module, program: Function, batches: Sequence[Tensor]) -> str:
    """Compare a program that was written with the source, at several batch sizes.

    Args:
        source (nn.Module): From images to outputs.
        program (Callable): The program, read from the file.
        batches (Sequence[Tensor]): Images; float32.

    Returns:
        str: What was found.

    Raises:
        UserError: If it fails at one of the sizes, the outputs differ, or those of the source
            differ between images by no more than the program from the source.
    """
    differences, outputs = [], []
    sizes = ', '.join(str(len(images)) for images in batches)
    for images in batches:
        with torch.no_grad():
            expected = source(images)
        try:
            with torch.no_grad():
                found = program(images)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f'not exported: the program fails at a batch of {len(images)}: {reason}'
            ) from error
        differences.append(_difference(expected, found))
        _check(differences[-1], expected, BOUND_FLOAT32, f'a batch of {len(images)}')
        outputs.append(expected)
    largest = max(differences)
    _check_not_constant(torch.cat(outputs), largest)
    if not largest:
        return f'outputs at batches of {sizes} are equal (largest difference 0.0)'
    bound = _bound(expected, BOUND_FLOAT32)
    return (
        f'outputs at batches of {sizes} differ by at most {largest:.1e} in float32 '
        f'(bound {bound:.1e})'
    )


def _check_not_constant(outputs: Tensor, difference: float) -> None:
    """Refuse a comparison that a program of constants would pass.

    Tracing may put the outputs of one image, as constants, in the place of what depends on the
    images. Those would be away from the outputs of some image by half of the spread or more.
    However close outputs are, a program that is much closer to them is none of constants.
    """
    spread = float((outputs - outputs[:1]).abs().max())
    if len(outputs) > 1 and not difference < spread / 4:
        raise UserError(
            f'not exported: the outputs of the model differ between images by only {spread:.1e} '
            f'(from the program by {difference:.1e}), so that the comparison cannot tell a '
            'program from constants: train the model first, or take --to safetensors'
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
