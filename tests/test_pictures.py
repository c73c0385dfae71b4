"""Pictures of predicted places and of features: what is drawn where."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from mmpretrain.registry import MODELS
from models import tiny_vit
from PIL import Image
from pixels import pixel

from poslabel_mm.visualization import features, position_map, sheet

pytestmark = pytest.mark.computes


def cividis(value):
    return [round(255 * channel) for channel in colormaps['cividis'](value)[:3]]


def near(colour, expected, by=6):
    """Values are drawn in 256 steps."""
    return max(abs(a - b) for a, b in zip(colour, expected)) <= by


# ------------------------------------------------------------------------------------------ maps


def _lab(colours):
    """sRGB colours (..., 3), 0 to 255, in CIELAB under daylight D65."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.transpose(to_xyz) / [0.9505, 1, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize('grid_shape', [(24, 24), (14, 14), (6, 6), (3, 5)])
def test_every_place_has_a_colour_of_its_own(grid_shape):
    colours = position_map.place_colours(grid_shape).astype(int)
    flat = _lab(colours).reshape(-1, 3)
    apart = np.linalg.norm(flat[:, None] - flat, axis=-1) + 1000 * np.eye(len(flat))
    assert apart.min() > 2.3  # the difference that can just be seen, in CIELAB
    # Columns go from blue to yellow, rows from light to dark.
    assert (np.diff(colours[..., 2], axis=1) < 0).mean() > 0.9
    grey = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(grey, axis=0) < 0).all()


def test_the_map_shows_predicted_places_in_the_colours_of_the_true_ones():
    H, W = 2, 3
    image = np.full((H * 4, W * 4, 3), 40, dtype=np.uint8)
    predicted = np.array([0, 1, 5, 3, 0, 5])
    errors = np.array([0.0, 0.0, 1.0, 0.0, 2.0, 0.0])
    rows = [
        position_map.MapRow('first', predicted, errors),
        position_map.MapRow('second', np.arange(6), np.zeros(6)),
    ]
    figure = position_map.draw_map('photo', image, rows, (H, W))
    pixels = sheet.render(figure)
    assert figure.texts[0].get_text() == 'Predicted places of the patches of photo'
    colours = position_map.place_colours((H, W)).reshape(-1, 3).tolist()
    for row, places, wrong in ((0, predicted, errors), (1, np.arange(6), np.zeros(6))):
        drawn, true, shown, error = figure.axes[4 * row : 4 * row + 4]
        assert drawn.get_title(loc='left').startswith(f'{(wrong == 0).sum()} of 6 right')
        assert drawn.get_ylabel() == ('first', 'second')[row]
        for place in range(6):
            y, x = divmod(place, W)
            assert pixel(true, x, y, pixels) == colours[place]
            assert pixel(shown, x, y, pixels) == colours[places[place]]
            # Beside the number that is written in the middle.
            assert near(pixel(error, x - 0.4, y - 0.4, pixels), cividis(wrong[place] / 2))
            # A blue dot where it is right.
            blue = near(pixel(drawn, x, y, pixels), [0, 0x72, 0xB2])
            assert blue == (wrong[place] == 0)
    title = figure.axes[3].get_title(loc='left')
    assert title.split() == 'error in patches, 0.50 on average'.split()


def test_a_large_grid_shows_the_image_itself():
    image = np.random.default_rng(0).integers(0, 255, (14, 14, 3), dtype=np.uint8)
    row = position_map.MapRow('', np.arange(196), np.zeros(196))
    figure = position_map.draw_map('photo', image, [row], (14, 14))
    pixels = sheet.render(figure)
    for x, y in (0, 0), (13, 0), (5, 9):
        assert pixel(figure.axes[0], x, y, pixels) == image[y, x].tolist()
        assert pixel(figure.axes[2], x, y, pixels) == pixel(figure.axes[1], x, y, pixels)


def test_errors_by_cell_are_where_they_belong():
    distance = np.array([[0.0, 4.0], [1.0, 2.0]])
    right = np.array([[1.0, 0.0], [0.5, 0.25]])
    figure = position_map.draw_cell_errors(1234, [position_map.CellErrors('', distance, right)])
    pixels = sheet.render(figure)
    assert figure.texts[0].get_text() == 'Errors by the true place, over 1,234 images'
    left, share = figure.axes
    assert left.get_title(loc='left') == 'error in patches, 1.75 on average'
    for (y, x), value in np.ndenumerate(distance):
        assert near(pixel(left, x - 0.4, y - 0.4, pixels), cividis(value / 4))
        assert near(pixel(share, x - 0.4, y - 0.4, pixels), cividis(right[y, x]))
    assert [text.get_text() for text in share.texts] == ['100', '0', '50', '25']


def test_a_saved_picture_is_the_drawn_one(tmp_path):
    figure, _ = sheet.make_sheet('A heading', ['a', 'b'], bars=[False, True])
    pixels = sheet.render(figure)
    sheet.save_png(pixels, tmp_path / 'new' / 'picture.png')
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'new' / 'picture.png')), pixels)


def test_headings_titles_and_labels_fit(tmp_path):
    heading = 'A heading of many words that goes on and on ' * 3
    figure, axes = sheet.make_sheet(heading, ['a_long_name/of_a_checkpoint_30'] * 2, [False] * 2)
    for panel in axes.flat:
        sheet.set_title(panel, 'a title that is somewhat wider than its panel')
    sheet.render(figure)
    box = figure.texts[0].get_window_extent()
    titles = [panel._left_title.get_window_extent() for panel in axes.flat]
    labels = [row[0].yaxis.label.get_window_extent() for row in axes]
    for text in [box, *titles, *labels]:
        assert text.x0 >= 0 and text.x1 <= figure.bbox.x1
        assert text.y0 >= 0 and text.y1 <= figure.bbox.y1
    assert all(title.y1 <= box.y0 for title in titles)
    assert titles[0].x1 <= titles[1].x0
    # The second row's titles are below the first row's panels.
    assert titles[2].y1 <= axes[0, 0].get_window_extent().y0


# -------------------------------------------------------------------------------------- features


def test_principal_components_are_the_planted_ones():
    generator = torch.Generator().manual_seed(0)
    planted = torch.randn(2, 9, 3, generator=generator) * torch.tensor([9.0, 3.0, 1.0])
    directions = torch.linalg.qr(torch.randn(20, 3, generator=generator)).Q
    tokens = planted @ directions.T + 5
    colours = features.principal_colours(tokens).float()
    assert colours.amin((0, 1)).tolist() == [0, 0, 0]
    assert colours.amax((0, 1)).tolist() == [255, 255, 255]
    # By its own components the first one orders the tokens as the planted one does.
    together = torch.corrcoef(torch.stack([colours[..., 0].flatten(), planted[..., 0].flatten()]))
    assert together[0, 1].abs() > 0.99
    assert features.principal_colours(torch.ones(1, 4, 8)).unique().tolist() == [128]
    assert features.principal_colours(torch.randn(1, 4, 1)).shape == (1, 4, 3)


def test_similarity_is_the_cosine():
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [4.0, 4.0]]])
    found = features.similarity(tokens, 0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0, -1.0, 0.5**0.5]]))


def test_attention_is_what_the_layer_computes_with():
    vit = MODELS.build(tiny_vit())
    vit.init_weights()
    vit.eval()
    module, seen = vit.layers[-1].attn, []
    hook = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    assert features.why_no_attention(vit) is None
    with torch.no_grad(), features.class_attention(vit) as read:
        vit(torch.randn(2, 3, 16, 16))
    hook.remove()
    ((tokens,), output), (weights,) = seen[0], read
    assert weights.shape == (2, 2, 17)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2))
    value = module.qkv(tokens).reshape(2, 17, 3, 2, 8)[:, :, 2]
    mixed = torch.einsum('bhn,bnhc->bhc', weights, value).flatten(1)
    torch.testing.assert_close(module.proj(mixed), output[:, 0])
    assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    'cfg, reason',
    [
        (
            dict(type='SwinTransformer', img_size=32, arch='tiny'),
            'SwinTransformer has no class token',
        ),
        (
            dict(type='BEiTViT', arch=dict(tiny_vit()['arch']), img_size=16, patch_size=4),
            'BEiTViT has no plain self-attention in its last layer',
        ),
        (
            tiny_vit(with_cls_token=False, out_type='avg_featmap'),
            'VisionTransformer has no class token',
        ),
    ],
)
def test_why_there_is_no_attention_is_one_line(cfg, reason):
    with torch.device('cpu'):
        assert features.why_no_attention(MODELS.build(cfg)) == reason


def test_the_picture_of_features_shows_them():
    H, W = 2, 3
    image = np.arange(6, dtype=np.uint8).reshape(H, W, 1).repeat(3, -1) * 30
    colours = np.random.default_rng(0).integers(0, 255, (6, 3), dtype=np.uint8)
    attention = np.array([0.1, 0.0, 0.05, 0.4, 0.2, 0.25])
    similar = np.array([0.0, 0.5, 0.25, 1.0, 0.75, 0.1])
    rows = [
        features.FeatureRow('first', colours, similar, attention),
        features.FeatureRow('second', colours[::-1], similar, 'ResNet has no class token'),
        features.FeatureRow('third', colours, similar - 0.5, attention / 2),
    ]
    figure = features.draw_features('photo', image, 3, rows, (H, W))
    pixels = sheet.render(figure)
    for row, shown in (0, colours), (1, colours[::-1]), (2, colours):
        picture, components, attended, cosine = figure.axes[4 * row : 4 * row + 4]
        for place in range(6):
            y, x = divmod(place, W)
            assert pixel(picture, x, y, pixels) == image[y, x].tolist()
            assert pixel(components, x, y, pixels) == shown[place].tolist()
            # In the scale of all rows, from -0.5 to 1.
            value = cividis((rows[row].similarity[place] + 0.5) / 1.5)
            assert near(pixel(cosine, x - 0.3, y - 0.35, pixels), value)
            if row != 1:
                expected = cividis(rows[row].attention[place] / 0.4)
                assert near(pixel(attended, x - 0.3, y - 0.35, pixels), expected)
        # The chosen patch has a frame, in row 1 and column 0.
        assert near(pixel(picture, -0.5, 1, pixels), [0xE6, 0x9F, 0])
    (text,) = figure.axes[6].texts
    assert ' '.join(text.get_text().split()) == 'ResNet has no class token'


# ------------------------------------------------------------------------------------ quickstart


def test_the_quickstarts_picture_goes_from_wrong_to_right(tmp_path):
    images = np.full((2, 24, 24), 60, dtype=np.uint8)
    right = np.arange(16)
    snapshots = [
        position_map.Snapshot(1, np.stack([np.roll(right, 4)] * 2), 0.0),
        position_map.Snapshot(9, np.stack([right] * 2), 100.0),
    ]
    curves = [
        position_map.Curves('no labels', np.array([[3.0, 2.0], [2.5, 1.5]]), np.empty((0, 2))),
        position_map.Curves('labels', np.array([[3.0, 1.0]]), np.array([[10.0, 90.0]])),
    ]
    position_map.draw_training(images, (4, 4), snapshots, curves, tmp_path / 'picture.png')
    pixels = np.asarray(Image.open(tmp_path / 'picture.png').convert('RGB')).astype(int)
    height, width, _ = pixels.shape
    # The panels: below the titles, above the legend.
    panels = pixels[int(0.12 * height) : int(0.58 * height)]

    def share(half, colour):
        return (np.abs(half - colour).max(-1) < 25).mean()

    blue, orange = [0, 0x72, 0xB2], [0xE6, 0x9F, 0]
    first, last = panels[:, : width // 2], panels[:, width // 2 :]
    assert share(first, orange) > 0.005 and share(first, blue) == 0
    assert share(last, blue) > 0.005 and share(last, orange) == 0
