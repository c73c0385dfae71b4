import pytest
import torch
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from mmpretrain.registry import MODELS
from models import batch, build, tiny_vit

from poslabel_mm.errors import UserError

pytestmark = pytest.mark.computes


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
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    model = build(
        vit(pos_encoding='none', img_size=img_size, out_type='featmap'), training=False
    ).double()
    images = batch(2, height, width)[0].double()
    rows = torch.randperm(height // 4)

    def move(maps, side):
        blocks = maps.unflatten(2, (-1, side))
        return blocks[:, :, rows].flatten(2, 3)

    torch.testing.assert_close(model(move(images, 4))[0], move(model(images)[0], 1))
    learned = build(vit(img_size=img_size, out_type='featmap'), training=False).double()
    assert not torch.allclose(learned(move(images, 4))[0], move(learned(images)[0], 1))


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


def sincos(rows, cols, dims):
    """MAE's encoding, in MMPretrain's order: a quarter of the channels each
    for sin and cos of the row, then of the column."""
    omega = 1 / 10000 ** (torch.arange(dims // 4) / (dims // 4))
    table = []
    for row in range(rows):
        for col in range(cols):
            y, x = row * omega, col * omega
            table.append(torch.cat([y.sin(), y.cos(), x.sin(), x.cos()]))
    return torch.stack(table)


@pytest.mark.parametrize('img_size, grid', [(16, (4, 4)), ((12, 20), (3, 5))])
@pytest.mark.parametrize('initialised', [False, True])
def test_sincos_is_maes_fixed_encoding(img_size, grid, initialised):
    cfg = vit(pos_encoding='sincos', img_size=img_size)
    model = build(cfg) if initialised else MODELS.build(cfg)
    torch.testing.assert_close(model.pos_embed.data[0, 1:], sincos(*grid, model.embed_dims))
    assert not model.pos_embed[0, 0].any()  # the class token
    assert not model.pos_embed.requires_grad
    assert 'pos_embed' in model.state_dict()


def test_square_sincos_is_mmpretrains_to_the_bit():
    model = build(vit(pos_encoding='sincos'))
    assert torch.equal(
        model.pos_embed.data,
        build_2d_sincos_position_embedding((4, 4), model.embed_dims, cls_token=True),
    )


def test_sincos_is_not_trained_whatever_a_checkpoint_holds():
    model, learned = build(vit(pos_encoding='sincos')), build(tiny_vit())
    model.load_state_dict(learned.state_dict())
    assert torch.equal(model.pos_embed, learned.pos_embed)
    assert not model.pos_embed.requires_grad


def test_learned_sincos_starts_as_sincos_and_learns():
    fixed = build(vit(pos_encoding='sincos'))
    learned = build(vit(pos_encoding='learned_sincos'))
    assert torch.equal(learned.pos_embed, fixed.pos_embed)
    assert learned.pos_embed.requires_grad


def test_sincos_of_an_image_without_class_token():
    model = build(vit(pos_encoding='sincos', with_cls_token=False, out_type='avg_featmap'))
    assert torch.equal(
        model.pos_embed.data, build_2d_sincos_position_embedding((4, 4), model.embed_dims)
    )


def test_unknown_encoding_is_refused():
    with pytest.raises(UserError, match="'rotary' is unknown.*sincos"):
        build(vit(pos_encoding='rotary'))
