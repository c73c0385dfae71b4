"""The pyramid that detectors read a plain transformer through."""

import pytest
import torch

from poslabel_mm import UserError
from poslabel_mm.models.necks import SimpleFeaturePyramid

MAP = torch.randn(2, 16, 6, 10)


@pytest.mark.parametrize(
    'scales, num_outs, sizes',
    [
        ((4, 2, 1, 0.5), 5, [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]),
        ([2, 1, 0.5], 5, [(12, 20), (6, 10), (3, 5), (2, 3), (1, 2)]),
        ((1, 4.0), 2, [(6, 10), (24, 40)]),
    ],
)
def test_the_last_map_in_several_sizes(scales, num_outs, sizes):
    neck = SimpleFeaturePyramid(16, 8, scales, num_outs)
    maps = neck((torch.full_like(MAP, torch.nan), MAP))
    assert [tuple(x.shape[1:]) for x in maps] == [(8, *size) for size in sizes]
    for pooled, x in zip(maps[len(scales) :], maps[len(scales) - 1 :]):
        assert torch.equal(pooled, x[..., ::2, ::2])
    sum(x.square().sum() for x in maps).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


def test_a_scale_of_a_map_is_its_layers_one_after_another():
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(16, 8, scales=(2,), num_outs=1)
    (out,) = neck([MAP])
    enlarge, project, norm, smooth, last = neck.maps[0]

    def normalised(x, layer):
        mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
        x = (x - mean) / (var + layer.eps).sqrt()
        return x * layer.weight[:, None, None] + layer.bias[:, None, None]

    # Of a kernel as large as its stride every pixel makes four of its own.
    x = torch.einsum('bchw,cdyx->bdhywx', MAP, enlarge.weight).flatten(2, 3).flatten(3, 4)
    x = x + enlarge.bias[:, None, None]
    x = normalised(torch.einsum('bchw,dc->bdhw', x, project.weight[..., 0, 0]), norm)
    x = normalised(torch.nn.functional.conv2d(x, smooth.weight, padding=1), last)
    assert torch.allclose(out, x, atol=1e-5)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(scales=(8, 1)), r'scales=\(8, 1\) is refused: choose from \[4, 2, 1, 0.5\]'),
        (dict(num_outs=3), 'num_outs=3 is refused: set it to a whole number from 4 on'),
        (dict(in_channels=0), 'in_channels=0 is refused'),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SimpleFeaturePyramid(**{'in_channels': 16, **options})
