"""MAE's and MoCo v3's encoders with a choice of positional encoding."""

import pytest
import torch
from mmpretrain.models.selfsup import MAE
from models import build
from selfsup_models import VIT, hivit, images, mae

from poslabel_mm.errors import UserError
from poslabel_mm.models.backbones.positional_encoding import POS_ENCODINGS

pytestmark = pytest.mark.computes


def mae_vit(**kwargs):
    return dict(type='poslabel_mm.PositionalMAEViT') | VIT | kwargs


def mae_hivit(**kwargs):
    return hivit('poslabel_mm.PositionalMAEHiViT') | kwargs


def mocov3_vit(**kwargs):
    return dict(type='poslabel_mm.PositionalMoCoV3ViT') | VIT | kwargs


STOCK = dict(type='MAEViT') | VIT
ENCODERS = [(mae_vit, STOCK), (mae_hivit, hivit('MAEHiViT'))]
both_encoders = pytest.mark.parametrize('ours, stock', ENCODERS, ids=['ViT', 'HiViT'])
every_encoder = pytest.mark.parametrize(
    'ours, stock',
    ENCODERS + [(mocov3_vit, dict(type='MoCoV3ViT') | VIT)],
    ids=['ViT', 'HiViT', 'MoCo v3'],
)


@every_encoder
def test_default_is_the_stock_encoder(ours, stock):
    ours, stock = build(ours()), build(stock)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    assert not ours.pos_embed.requires_grad
    outs = []
    for model in (ours, stock):
        torch.manual_seed(1)
        outs.append(model(images()))
    assert all(map(torch.equal, *outs))


@both_encoders
def test_default_is_the_stock_encoder_without_a_mask_too(ours, stock):
    ours, stock = build(ours()), build(stock)
    assert torch.equal(ours(images(), None)[0], stock(images(), None)[0])


@pytest.mark.parametrize('pos_encoding', POS_ENCODINGS)
def test_shapes_are_those_of_the_stock_tests(pos_encoding):
    """What MMPretrain's test_mae_vit checks, which is not in its wheel."""
    encoder = build(mae_vit(mask_ratio=0.75, pos_encoding=pos_encoding))
    assert encoder(images())[0].shape == (4, 5, 16)
    assert encoder(images(), None)[0].shape == (4, 17, 16)


def move_visible_patches(batch, indices, order, patch=4):
    """Put patch ``order[k]`` of the visible ones in the place of the k-th."""
    grid = batch.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).clone()
    for of_image, places in zip(patches, indices):
        of_image[places] = of_image[places[order]].clone()
    H, W = batch.shape[2] // patch, batch.shape[3] // patch
    return patches.unflatten(1, (H, W)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize('mask_ratio', [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    'make, img_size',
    [
        (mae_vit, (16, 16)),
        (mae_vit, (12, 20)),
        (mae_hivit, (16, 16)),
        (mae_hivit, (12, 20)),
    ],
)
def test_without_encoding_the_encoder_is_equivariant(make, img_size, mask_ratio):
    """Permuting the visible patches permutes the tokens, and nothing else."""
    height, width = img_size
    batch = images(2, max(img_size))[..., :height, :width].double()

    def tokens_of(encoder, batch):
        torch.manual_seed(4)
        tokens, _, ids_restore = encoder(batch)
        n = int(encoder.num_patches * (1 - mask_ratio))
        return tokens[:, -n:], ids_restore.argsort(1)[:, :n]

    def after_moving(encoder):
        tokens, indices = tokens_of(encoder, batch)
        order = torch.randperm(indices.shape[1], generator=torch.Generator().manual_seed(5))
        moved, same = tokens_of(encoder, move_visible_patches(batch, indices, order))
        assert torch.equal(same, indices)
        return moved, tokens[:, order]

    options = dict(img_size=img_size, mask_ratio=mask_ratio)
    free = build(make(pos_encoding='none', **options)).double()
    torch.testing.assert_close(*after_moving(free))
    encoded = build(make(pos_encoding='sincos', **options)).double()
    moved, permuted = after_moving(encoded)
    assert not torch.allclose(moved, permuted)


def tokens_before_attention(encoder, batch):
    """What the first attention block is given, without class token."""
    if hasattr(encoder, 'layers'):
        block = encoder.layers[0]
    else:  # HiViT's stages before have no attention
        block = encoder.blocks[-encoder.num_main_blocks]
    seen = []
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(4)
    encoder(batch)
    handle.remove()
    return seen[0][:, -int(encoder.num_patches * (1 - encoder.mask_ratio)) :]


@pytest.mark.parametrize('H, W', [(3, 5), (5, 3), (2, 8)])
@pytest.mark.parametrize('pos_encoding', ['sincos', 'learned'])
@both_encoders
def test_each_visible_token_gets_the_encoding_of_its_patch(ours, stock, pos_encoding, H, W):
    """A patch is found by its pixels: of a grey image it alone is changed."""
    encoder = build(
        ours(img_size=(4 * H, 4 * W), mask_ratio=0.5, pos_encoding=pos_encoding)
    ).double()
    if pos_encoding == 'learned':
        expected = encoder.pos_embed[0, -H * W :].clone()
    else:  # as in the corner of the stock encoder's square that holds the grid
        side = max(H, W)
        square = build(stock | dict(img_size=4 * side)).double()
        expected = (
            square.pos_embed[0, -side * side :].unflatten(0, (side, side))[:H, :W].flatten(0, 1)
        )
    grey = torch.zeros(3, 3, 4 * H, 4 * W).double()
    encoded = tokens_before_attention(encoder, grey)
    encoder.pos_embed.data.zero_()
    plain = tokens_before_attention(encoder, grey)
    found = 0
    for place in range(H * W):
        row, column = 4 * (place // W), 4 * (place % W)
        image = grey.clone()
        image[..., row : row + 4, column : column + 4] = images(1, 4).double()
        tokens = tokens_before_attention(encoder, image)
        here = (tokens != plain).any(-1)
        found += here.sum()
        torch.testing.assert_close((encoded - plain)[here], expected[place].expand(here.sum(), -1))
    assert found == plain.shape[0] * plain.shape[1]  # each one is some patch's


@every_encoder
def test_without_encoding_nothing_is_saved_nor_loaded(ours, stock):
    free, stock = build(ours(pos_encoding='none')), build(stock, seed=3)
    assert set(stock.state_dict()) - set(free.state_dict()) == {'pos_embed'}
    assert not any('pos_embed' in name for name, _ in free.named_parameters())
    free.load_state_dict(stock.state_dict())  # strict: passed over
    assert not free.pos_embed.any()
    before = stock.pos_embed.clone()
    missing = stock.load_state_dict(free.state_dict(), strict=False)
    assert missing.missing_keys == ['pos_embed']
    assert torch.equal(stock.pos_embed, before)


@every_encoder
def test_learned_encoding_learns(ours, stock):
    learned, sincos = build(ours(pos_encoding='learned')), build(ours())
    assert learned.pos_embed.requires_grad
    from_sincos = build(ours(pos_encoding='learned_sincos'))
    assert from_sincos.pos_embed.requires_grad
    assert torch.equal(from_sincos.pos_embed, sincos.pos_embed)


@pytest.mark.parametrize('encoder', [mae_vit, mae_hivit, mocov3_vit])
def test_learned_encoding_does_not_start_as_sincos(encoder):
    learned, sincos = build(encoder(pos_encoding='learned')), build(encoder())
    assert learned.pos_embed.any()
    assert not torch.allclose(learned.pos_embed, sincos.pos_embed)


@pytest.mark.parametrize('pos_encoding', ['sincos', 'none'])
def test_init_cfg_loads_all_of_a_checkpoint(tmp_path, pos_encoding):
    source = build(mae(mae_vit(pos_encoding=pos_encoding)), seed=4)
    assert isinstance(source, MAE)
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    model = build(
        mae_vit(
            pos_encoding=pos_encoding,
            init_cfg=dict(type='Pretrained', checkpoint=path, prefix='backbone.'),
        )
    )
    for key, value in source.backbone.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_init_cfg_loads_a_hierarchical_encoder(tmp_path):
    source = build(mae_hivit(), seed=4)
    path = str(tmp_path / 'checkpoint.pth')
    torch.save(dict(state_dict=source.state_dict()), path)
    model = build(mae_hivit(init_cfg=dict(type='Pretrained', checkpoint=path)))
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_unknown_encoding_is_refused():
    with pytest.raises(UserError, match="'rotary' is unknown.*sincos"):
        build(mae_vit(pos_encoding='rotary'))
