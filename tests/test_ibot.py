"""iBOT: a student predicts what the teacher makes of masked patches."""

import math

import pytest
import torch
from mmengine.config import Config
from models import apl_head, build
from selfsup_models import ibot
from test_dino import crops, length_of_training, set_time  # noqa: F401
from test_self_supervised_labels import leave_tokens_alone, marked_images, record
from torch.utils.checkpoint import checkpoint

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.head_schedules import check_head_schedules
from poslabel_mm.models import IBOTHead

pytestmark = pytest.mark.computes


def labelled(*heads, **kwargs):
    return ibot(type='poslabel_mm.PositionalLabelIBOT', pos_head=list(heads), **kwargs)


def test_the_loss_of_patches_is_the_plain_one():
    schedule = dict(type='linear', start=0.2, end=0.4, epochs=5)
    head = IBOTHead(5, student_temp=0.3, teacher_temp=schedule, center_momentum=0.7).double()
    head.center.normal_()
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 5, dtype=torch.float64)
    for iteration, temperature in (0, 0.2), (25, 0.3):
        set_time(iteration)
        expected = 0
        for of_student, of_teacher in zip(student, teacher):
            target = [math.exp((of_teacher[k] - head.center[k]) / temperature) for k in range(5)]
            partition = sum((x / 0.3).exp() for x in of_student)
            for k in range(5):
                log = of_student[k] / 0.3 - partition.log()
                expected = expected - target[k] / sum(target) * log / 6
        center = 0.7 * head.center + 0.3 * teacher.mean(0)
        loss = head.loss(student, teacher)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        gradients = (torch.autograd.grad(each, student)[0] for each in (loss, expected))
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(head.center, center, rtol=1e-12, atol=1e-12)
    head.eval().loss(student, teacher)
    torch.testing.assert_close(head.center, center, rtol=1e-12, atol=1e-12)


def watch(backbone):
    """What every pass of a backbone makes of patches, and its tokens."""
    passes = []
    backbone.patch_embed.register_forward_hook(lambda _, __, output: passes.append([output[0]]))
    backbone.register_forward_hook(lambda _, __, outputs: passes[-1].append(outputs[-1]))
    return passes


def masks_of(model, patches):
    return (patches == model.mask_token).all(-1)


def test_the_student_predicts_the_teachers_tokens_of_masked_patches():
    model = build(labelled(apl_head(on_grid_mismatch='rescale'), mask_ratio=0.3))
    torch.nn.init.normal_(model.mask_token)
    student, teacher = watch(model.backbone), watch(model.momentum_encoder.module[0])
    given, of_images = {}, {}
    for name, seen in ('patch_head', given), ('head', of_images):
        head_loss = getattr(model, name).loss
        getattr(model, name).loss = lambda *args, seen=seen, loss=head_loss: (
            seen.update(args=args) or loss(*args)
        )
    losses = model.loss(crops(), [])
    assert {'loss_view', 'loss_patch', 'loss_apl'} <= set(losses)
    # Of the global crops 5 of 16 patches, other ones in every crop; of the local crops none.
    masks = [masks_of(model, patches) for patches, _ in student]
    assert [mask.sum(1).unique().tolist() for mask in masks] == [[5], [5], [0], [0]]
    assert not torch.equal(*masks[:2])
    assert len(teacher) == 2 and not any(masks_of(model, patches).any() for patches, _ in teacher)
    necks = model.neck, model.momentum_encoder.module[1]
    for passes, neck, found, images in zip(
        (student, teacher), necks, given['args'], of_images['args']
    ):
        # In whatever order, the same one for both.
        expected = torch.cat(
            [neck(tokens[:, 1:][mask])[0] for (_, tokens), mask in zip(passes, masks)]
        )
        torch.testing.assert_close(*(rows[rows.sum(1).argsort()] for rows in (found, expected)))
        for (_, tokens), outputs in zip(passes, images, strict=True):
            torch.testing.assert_close(neck(tokens[:, 0])[0], outputs)
    assert given['args'][0].requires_grad and not given['args'][1].requires_grad
    model.parse_losses(losses)[0].backward()
    assert model.mask_token.grad.any()


def test_pairs_are_of_the_same_patch():
    """A student that is its teacher, with a mask token that changes nothing, agrees with it."""
    model = build(ibot()).eval()
    model.backbone.patch_embed.projection.weight.data.zero_()
    model.mask_token.data.copy_(model.backbone.patch_embed.projection.bias)
    torch.nn.init.normal_(model.backbone.pos_embed)
    model.momentum_encoder.module.load_state_dict(model._student().state_dict())
    given = []
    model.patch_head.loss = lambda *outputs: given.extend(outputs) or outputs[0].sum()
    model.loss(crops(), [])
    torch.testing.assert_close(*given)
    assert given[0].std(0).max() > 1e-3


def test_seed_decides_the_masks_and_heads_do_not():
    drawn = []
    for cfg in ibot(), labelled(apl_head(on_grid_mismatch='rescale')):
        model = build(cfg)
        passes = watch(model.backbone)
        torch.nn.init.normal_(model.mask_token)
        for seed in 5, 6, 5:
            torch.manual_seed(seed)
            model.loss(crops(), [])
        masks = [masks_of(model, patches) for patches, _ in passes]
        drawn.append([torch.stack(masks[i : i + 2]) for i in (0, 4, 8)])
    assert torch.equal(drawn[0][0], drawn[0][2]) and not torch.equal(*drawn[0][:2])
    assert all(map(torch.equal, *drawn))


def test_every_patch_of_every_crop_has_its_label_masked_or_not():
    model = build(labelled(apl_head(on_grid_mismatch='rescale')))
    leave_tokens_alone(model)
    model.momentum_encoder.update_parameters = lambda _: None  # it has other layers now
    model.mask_token.data.fill_(-7)
    shapes = [(4, 3, 16, 16), (4, 3, 16, 16), (4, 3, 8, 8)]
    grids = [(4, 4), (4, 4), (2, 2)]
    views = [
        100 * i + marked_images(shape, grid) for i, (shape, grid) in enumerate(zip(shapes, grids))
    ]
    seen = record(model, (views, []))
    assert [tuple(tokens.grid_shape) for tokens in seen] == grids
    for i, (tokens, (H, W), indices) in enumerate(seen):
        assert indices is None
        masked = tokens[..., 0] == -7
        assert masked.sum(1).unique().tolist() == [5 if i < 2 else 0]
        expected = (100 * i + torch.arange(1.0, H * W + 1)).expand(4, -1)
        assert torch.equal(tokens[..., 0], expected.masked_fill(masked, -7))


@pytest.mark.parametrize('own', [dict(), dict(pos_swap=0), dict(pos_drop=dict(patches=0))])
def test_masked_patches_have_their_own_encoding(own):
    cfg = ibot()
    cfg['backbone'] |= dict(type='poslabel_mm.PositionalVisionTransformer') | own
    model = build(cfg)
    model.mask_token.data.fill_(9)
    seen = []
    model.backbone.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.loss(crops(), [])
    same = (seen[0][:, 1:] == model.backbone.pos_embed[:, 1:] + 9).all(-1)
    assert same.sum(1).tolist() == [5] * 4


def test_evaluation_draws_no_masks_of_training():
    """A loss of validation has masks too; training goes on as without it."""
    drawn = []
    for validates in False, True:
        model = build(ibot())
        torch.nn.init.normal_(model.mask_token)
        passes = watch(model.backbone)
        torch.manual_seed(7)
        model.loss(crops(), [])
        if validates:
            model.eval().loss(crops(), [])
            model.train()
        model.loss(crops(), [])
        drawn.append([masks_of(model, patches) for patches, _ in passes])
    trained, with_validation = drawn
    assert with_validation[4].sum(1).tolist() == [5] * 4
    assert not torch.equal(with_validation[4], trained[4])
    for masks, expected in zip(with_validation[:4] + with_validation[8:], trained, strict=True):
        assert torch.equal(masks, expected)


def test_a_repeated_forward_pass_is_refused():
    """Which would be one without masks, as the loss has been computed by then."""
    model = build(ibot())
    forward = model.backbone.forward
    model.backbone.forward = lambda images: checkpoint(forward, images, use_reentrant=False)
    total, _ = model.parse_losses(model.loss([view.requires_grad_() for view in crops()], []))
    with pytest.raises(UserError, match="^mask_ratio .*checkpoint the backbone's layers"):
        total.backward()


def backbone(**kwargs):
    own = dict(type='poslabel_mm.PositionalVisionTransformer')
    return dict(backbone=ibot()['backbone'] | own | kwargs)


@pytest.mark.parametrize(
    'parts, line',
    [
        *(
            (
                dict(mask_ratio=ratio),
                f'model.mask_ratio={ratio} is refused: .* above 0 and below 1',
            )
            for ratio in (0, 1, 1.5, True)
        ),
        (backbone(out_type='cls_token'), "model.backbone.out_type='cls_token' leaves out tokens"),
        (backbone(with_cls_token=False), 'model.backbone: IBOT reads the class token and the'),
        (backbone(type='poslabel_mm.CausalVisionTransformer'), 'model.backbone: IBOT reads the'),
        (backbone(pos_encoding='none'), "model.backbone.pos_encoding='none' is refused: IBOT pre"),
        (backbone(patch_drop_rate=0.5), 'model.backbone.patch_drop_rate=0.5 leaves out patches'),
        (backbone(pos_swap=0.3), 'model.backbone.pos_swap=0.3 is refused: IBOT predicts masked'),
        *(
            (
                backbone(pos_drop=drop),
                'model.backbone.pos_drop={.*} is refused: IBOT predicts masked patches',
            )
            for drop in (dict(patches=0.5), dict(images=0.5))
        ),
        *(
            (
                backbone(type=name),
                f"model.backbone.type='{name.rpartition('.')[2]}' masks patches by itself, and I",
            )
            for name in ('MAEViT', 'poslabel_mm.PositionalMAEViT', 'MILANViT', 'MaskFeatViT')
        ),
        (dict(neck=ibot()['neck'] | dict(in_channels=8)), 'model.neck.in_channels=8 does not fit'),
        (
            dict(patch_head=dict(type='poslabel_mm.IBOTHead', out_channels=7)),
            'model.patch_head.out_channels=7 does not fit: the neck has 12 outputs',
        ),
        (dict(patch_head=None), 'model.patch_head=None is refused'),
        (
            dict(patch_head=dict(ibot()['patch_head'], student_temp=0)),
            'model.patch_head.student_temp=0 is refused',
        ),
    ],
)
def test_what_does_not_fit_is_refused(parts, line):
    with pytest.raises(UserError, match=f'^{line}'):
        build(ibot() | parts)


def test_a_temperature_that_is_never_reached_is_refused():
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=10), model=ibot()))
    cfg.model.patch_head.teacher_temp = dict(type='linear', start=0.04, end=0.07, begin=12)
    with pytest.raises(
        UserError, match='^model.patch_head.teacher_temp.begin=12 is never reached'
    ):
        check_head_schedules(cfg)
