"""ShufflePatchesHook: which image gets which order, and what it refuses."""

import pytest
import torch
from mmengine.registry import HOOKS
from mmpretrain.structures import DataSample
from models import build, classifier, tiny_vit

from poslabel_mm.errors import UserError


def batch(names, side=8):
    """Images whose pixels are numbered."""
    image = torch.arange(3 * side * side).view(3, side, side)
    samples = [DataSample(metainfo=dict(img_path=name)) for name in names]
    return dict(inputs=[image + 1000 * i for i in range(len(names))], data_samples=samples)


def shuffled(names, step='before_test_iter', side=8, **options):
    hook = HOOKS.build(dict(type='poslabel_mm.ShufflePatchesHook') | dict(patch_size=4) | options)
    data = batch(names, side)
    getattr(hook, step)(None, 0, data)
    return data['inputs']


def patches(image, size=4):
    """The patches of an image as tuples, in row-major order."""
    cut = image.unfold(1, size, size).unfold(2, size, size).permute(1, 2, 0, 3, 4)
    return [tuple(patch.flatten().tolist()) for patch in cut.flatten(0, 1)]


def test_patches_change_places_and_stay_whole():
    names = [f'data/val/a/{i}.jpg' for i in range(20)]
    before, after = batch(names)['inputs'], shuffled(names)
    for image, moved in zip(before, after):
        assert moved.dtype == image.dtype and moved.shape == image.shape
        assert sorted(patches(moved)) == sorted(patches(image))
    # 24 orders are possible: of 20 images, most have one of their own.
    first = {tuple(p[0] % 1000 for p in patches(image)) for image in after}
    assert len(first) > 6
    whole = shuffled(names, patch_size=8)
    assert all(torch.equal(a, b) for a, b in zip(whole, before))


def test_an_image_has_one_order_wherever_and_with_whatever_it_is_tested():
    names = ['data/val/a/1.jpg', 'data/val/b/1.jpg', 'data/val/a/2.jpg']
    alone = [shuffled([name])[0] for name in names]
    moved = [shuffled([f'/elsewhere/{name}'])[0] for name in names]
    validated = shuffled(names, 'before_val_iter')
    for i, image in enumerate(shuffled(names)):
        assert torch.equal(image - 1000 * i, alone[i]) and torch.equal(alone[i], moved[i])
        assert torch.equal(image, validated[i])
    many = [f'a/{i}.jpg' for i in range(8)]
    assert not all(
        torch.equal(a, b) for a, b in zip(shuffled(many), shuffled(many, seed=1), strict=True)
    )


def test_refusals():
    with pytest.raises(UserError, match='patches of 4 px do not divide an image of 6x6 px'):
        shuffled(['a/1.jpg'], side=6)
    with pytest.raises(UserError, match='patch_size'):
        shuffled(['a/1.jpg'], patch_size=0)
    hook = HOOKS.build(dict(type='poslabel_mm.ShufflePatchesHook', patch_size=4))
    views = batch(['a/1.jpg', 'a/2.jpg'])
    with pytest.raises(UserError, match='leave out --tta'):
        hook.before_test_iter(None, 0, {key: [value] for key, value in views.items()})


@pytest.mark.parametrize('encoding', ['none', 'learned', 'rope'])
def test_a_model_without_encoding_sees_no_difference(encoding):
    """The control of the test on shuffled patches: self-attention is blind to the order."""
    backbone = tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_encoding=encoding)
    model = build(classifier(backbone=backbone), training=False).double()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    samples = [DataSample(metainfo=dict(img_path=f'a/{i}.jpg')) for i in range(4)]
    data = dict(inputs=list(images), data_samples=samples)
    HOOKS.build(dict(type='poslabel_mm.ShufflePatchesHook', patch_size=4)).before_test_iter(
        None, 0, data
    )
    with torch.no_grad():
        plain, moved = (
            model.head(model.extract_feat(x)) for x in (images, torch.stack(data['inputs']))
        )
    assert torch.allclose(plain, moved, rtol=0, atol=1e-10) == (encoding == 'none')
