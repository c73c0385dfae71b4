import pytest
import torch
import torch.nn.functional as F
from torch import nn

from poslabel_mm.errors import UserError
from poslabel_mm.models import PositionalLabelHead
from poslabel_mm.tokens import PatchTokens

pytestmark = pytest.mark.computes


def test_default_widths_are_those_of_the_released_code():
    head = PositionalLabelHead(in_channels=768, grid_size=14)
    linears = [m for m in head.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [
        (384, 384),
        (384, 192),
        (192, 196),
    ]
    assert list(head.state_dict()) == [
        f'{name}.{kind}' for name in ('fc1', 'fc2', 'classifier') for kind in ('weight', 'bias')
    ]


@pytest.mark.parametrize(
    'channels, read',
    [('first_half', slice(0, 4)), ('second_half', slice(4, 8)), ('all', slice(0, 8))],
)
@pytest.mark.parametrize('batch', [1, 3])
def test_loss_is_equation_5_times_lambda(channels, read, batch):
    head = PositionalLabelHead(8, (2, 3), channels=channels, loss_weight=0.25).double()
    tokens = torch.randn(batch, 6, 8, dtype=torch.float64, requires_grad=True)
    out = head.loss(PatchTokens(tokens, (2, 3)))

    log_p = head.classifier(head.fc2(F.gelu(head.fc1(tokens[..., read])))).log_softmax(-1)
    expected = -torch.stack([log_p[:, i, i] for i in range(6)]).mean()
    torch.testing.assert_close(out['loss_apl'], 0.25 * expected, rtol=0, atol=1e-12)
    assert torch.autograd.grad(out['loss_apl'], tokens)[0].abs().sum(
        dim=(0, 1)
    ).nonzero().flatten().tolist() == list(range(*read.indices(8)))


def test_visible_tokens_carry_their_own_labels():
    """A head that knows every token by sight is right wherever it stands."""
    head = PositionalLabelHead(12, (2, 3), channels='all')
    for linear, scale in ((head.fc1, 9.0), (head.fc2, 9.0), (head.classifier, 9.0)):
        nn.init.zeros_(linear.bias)
        linear.weight.data.copy_(scale * torch.eye(*linear.weight.shape))
    tokens = torch.eye(6, 12)  # token i lights channel i
    indices = torch.tensor([[5, 0, 3], [1, 4, 2]])
    visible = PatchTokens(tokens[indices], (2, 3), indices)
    assert head.loss(visible)['apl_acc'] == 100
    assert head.loss(visible)['loss_apl'] < 1e-6
    wrong = visible._replace(indices=indices.flip(1))
    assert head.loss(wrong)['apl_acc'] == pytest.approx(100 / 3)


def test_custom_widths():
    head = PositionalLabelHead(8, 2, hidden_channels=5, feat_channels=3)
    assert head(torch.randn(2, 4, 8)).shape == (2, 4, 4)
    assert (head.fc1.out_features, head.fc2.out_features) == (5, 3)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(in_channels=7, grid_size=2), 'even number of channels.*7'),
        (
            dict(in_channels=8, grid_size=2, channels='half'),
            "channels='half' is unknown.*first_half",
        ),
        (dict(in_channels=8, grid_size=0), 'grid_size=0 .*patch grid'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(UserError, match=message):
        PositionalLabelHead(**kwargs)


def test_odd_width_with_all_channels():
    assert PositionalLabelHead(7, 2, channels='all')(torch.randn(1, 4, 7)).shape == (1, 4, 4)


@pytest.mark.parametrize(
    'tokens, message',
    [
        (
            PatchTokens(torch.zeros(1, 6, 8), (3, 2)),
            r'3x2 patch grid.*grid_size=\(2, 3\).*set grid_size=\(3, 2\)',
        ),
        (
            PatchTokens(torch.zeros(1, 6, 4), (2, 3)),
            '4 channels.*in_channels=8.*set in_channels=4',
        ),
        (PatchTokens(torch.zeros(1, 5, 8), (2, 3)), '5 tokens.*2x3.*indices'),
    ],
)
def test_foreign_tokens_are_refused(tokens, message):
    head = PositionalLabelHead(8, (2, 3))
    with pytest.raises(UserError, match=message) as error:
        head.loss(tokens)
    assert '\n' not in str(error.value)


def test_predict_is_what_the_loss_counts():
    head = PositionalLabelHead(in_channels=8, grid_size=(2, 3))
    indices = torch.tensor([[5, 0, 2], [1, 3, 4]])
    patch_tokens = PatchTokens(torch.randn(2, 3, 8), (2, 3), indices)
    predictions = head.predict(patch_tokens)
    assert predictions.true_places.equal(indices)
    assert predictions.probabilities.shape == (2, 3, 6)
    torch.testing.assert_close(predictions.probabilities.sum(-1), torch.ones(2, 3))
    right = (predictions.places() == indices).float().mean() * 100
    torch.testing.assert_close(right, head.loss(patch_tokens)['apl_acc'])
    places = predictions.coordinates @ torch.tensor([3.0, 1.0])
    assert places.long().equal(predictions.places())
    assert not predictions.probabilities.requires_grad
