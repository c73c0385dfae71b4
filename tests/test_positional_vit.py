import pytest
import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from mmpretrain.registry import MODELS
from models import batch, build, tiny_vit

from poslabel_mm.errors import UserError


def vit(**kwargs):
    kwargs.setdefault('type', 'poslabel_mm.PositionalVisionTransformer')
    return tiny_vit(**kwargs)


def test_learned_is_the_stock_vit():
    images, _ = batch()
    ours = build(vit(pos_encoding='learned'), training=False)
    stock = build(tiny_vit(), training=False)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    assert torch.equal(ours(images)[0], stock(images)[0])


@pytest.mark.parametrize('img_size', [16, (12, 20)])
def test_without_encoding_the_tokens_do_not_know_their_place(img_size):
    """Moving the patches moves the tokens, and changes nothing else."""
    height, width = (img_size, img_size) if isinstance(img_size,
                                                       int) else img_size
    model = build(
        vit(pos_encoding='none', img_size=img_size, out_type='featmap'),
        training=False).double()
    images = batch(2, height, width)[0].double()
    rows = torch.randperm(height // 4)

    def move(maps, side):
        blocks = maps.unflatten(2, (-1, side))
        return blocks[:, :, rows].flatten(2, 3)

    torch.testing.assert_close(
        model(move(images, 4))[0], move(model(images)[0], 1))
    learned = build(
        vit(img_size=img_size, out_type='featmap'), training=False).double()
    assert not torch.allclose(
        learned(move(images, 4))[0], move(learned(images)[0], 1))


def test_without_encoding_nothing_is_saved_nor_loaded():
    free, stock = build(vit(pos_encoding='none')), build(tiny_vit(), seed=3)
    assert 'pos_embed' not in free.state_dict()
    assert set(stock.state_dict()) - set(free.state_dict()) == {'pos_embed'}
    assert not any('pos_embed' in name for name, _ in free.named_parameters())

    free.load_state_dict(stock.state_dict())  # strict: passed over
    assert not free.pos_embed.any()

    before = stock.pos_embed.clone()
    missing = stock.load_state_dict(free.state_dict(), strict=False)
    assert missing.missing_keys == ['pos_embed']
    assert torch.equal(stock.pos_embed, before)


@pytest.mark.parametrize('initialised', [False, True])
def test_sincos_is_maes_fixed_encoding(initialised):
    cfg = vit(pos_encoding='sincos')
    model = build(cfg) if initialised else MODELS.build(cfg)
    expected = build_2d_sincos_position_embedding(
        (4, 4), model.embed_dims, cls_token=True)
    assert torch.equal(model.pos_embed.data, expected)
    assert not model.pos_embed.requires_grad
    assert 'pos_embed' in model.state_dict()


def test_sincos_follows_rows_and_columns_of_a_non_square_grid():
    model = build(vit(pos_encoding='sincos', img_size=(12, 20)))
    encoding = model.pos_embed[0, 1:].unflatten(0, (3, 5))
    first, second = encoding.split(model.embed_dims // 2, dim=-1)
    # One half says the row, whatever the column, the other half the column.
    assert torch.equal(first, first[:, :1].expand(3, 5, -1))
    assert torch.equal(second, second[:1].expand(3, 5, -1))
    assert len(encoding.flatten(0, 1).unique(dim=0)) == 15


def test_learned_sincos_starts_as_sincos_and_learns():
    fixed = build(vit(pos_encoding='sincos'))
    learned = build(vit(pos_encoding='learned_sincos'))
    assert torch.equal(learned.pos_embed, fixed.pos_embed)
    assert learned.pos_embed.requires_grad


def test_sincos_of_an_image_without_class_token():
    model = build(
        vit(pos_encoding='sincos', with_cls_token=False,
            out_type='avg_featmap'))
    assert torch.equal(
        model.pos_embed.data,
        build_2d_sincos_position_embedding((4, 4), model.embed_dims))


def test_unknown_encoding_is_refused():
    with pytest.raises(UserError, match="'rotary' is unknown.*sincos"):
        build(vit(pos_encoding='rotary'))
