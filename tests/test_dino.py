"""DINO: a student follows its moving average across crops of an image."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from forked import join_by_file, run_ranks
from mmengine.config import Config
from mmengine.dist import all_reduce
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from models import apl_head, build
from selfsup_models import dino, ibot, images, rpl_head
from test_self_supervised_labels import leave_tokens_alone, marked_images, record

from poslabel_mm import config_path
from poslabel_mm.engine import CPUAmpOptimWrapper
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.head_schedules import check_head_schedules
from poslabel_mm.launch.checks.schedule import check_schedule
from poslabel_mm.models import DINOHead, DINONeck

pytestmark = pytest.mark.computes


def set_time(iteration):
    """Of a run of 10 epochs of 10 iterations."""
    info = MessageHub.get_current_instance().update_info
    for key, value in dict(iter=iteration, max_iters=100, max_epochs=10).items():
        info(key, value)


@pytest.fixture(autouse=True)
def length_of_training():
    set_time(0)


def crops(num_local=2):
    """Two global crops of 4x4 patches and local ones of 2x2."""
    sides = [16, 16, *[8] * num_local]
    return [images(side=side, seed=seed) for seed, side in enumerate(sides)]


def labelled(*heads):
    return dino(type='poslabel_mm.PositionalLabelDINO', pos_head=list(heads))


# ------------------------------------------------------------------------------------ the loss


def written_out(head, student, teacher, teacher_temp):
    """Image by image and output by output, in plain Python."""
    terms = []
    B, K = student[0].shape
    for i, of_teacher in enumerate(teacher):
        for j, of_student in enumerate(student):
            if i == j:
                continue
            for b in range(B):
                target = [
                    math.exp((of_teacher[b, k] - head.center[k]) / teacher_temp) for k in range(K)
                ]
                partition = torch.stack([(x / head.student_temp).exp() for x in of_student[b]])
                terms.append(
                    sum(
                        target[k]
                        / sum(target)
                        * (partition.sum().log() - of_student[b, k] / head.student_temp)
                        for k in range(K)
                    )
                )
    return sum(terms) / len(terms)


@pytest.mark.parametrize('num_views, num_teacher', [(4, 2), (2, 2), (3, 1)])
def test_loss_is_the_plain_one(num_views, num_teacher):
    schedule = dict(type='linear', start=0.2, end=0.4, epochs=5)
    head = DINOHead(5, student_temp=0.3, teacher_temp=schedule, center_momentum=0.7).double()
    head.center.normal_()
    student = [
        torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(num_views)
    ]
    teacher = [torch.randn(3, 5, dtype=torch.float64) for _ in range(num_teacher)]
    for iteration, temperature in (0, 0.2), (25, 0.3), (80, 0.4):
        set_time(iteration)
        expected = written_out(head, student, teacher, temperature)
        center = 0.7 * head.center + 0.3 * torch.cat(teacher).mean(0)
        loss = head.loss(student, teacher)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
        # The student's output for the teacher's only view is in no pair: it has no gradient.
        wanted = student[num_teacher == 1 :]
        gradients = (torch.autograd.grad(each, wanted) for each in (loss, expected))
        for ours, plain in zip(*gradients):
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(head.center, center, rtol=1e-12, atol=1e-12)
    center = head.state_dict()['center'].clone()
    head.eval().loss(student, teacher)
    assert torch.equal(head.center, center)


def _as_rank(rank, store):
    join_by_file(rank, store)
    set_time(0)
    # One rank's mean is 1, the other's 3.
    head = DINOHead(4, center_momentum=0.5)
    head.loss([torch.ones(2, 4)] * 2, [torch.full((2, 4), 1.0 + 2 * rank)] * 2)
    assert torch.equal(head.center, torch.ones(4))  # half of (1 + 3) / 2
    _ibot_as_rank(rank)
    torch.manual_seed(0)
    neck = DINONeck(4, 6, 8, 3)
    in_ranks = torch.nn.parallel.DistributedDataParallel(neck)
    step, optimizer = step_of('plain', neck)
    for iteration in 0, 9, 10, 11:
        set_time(iteration)
        before = neck.prototypes.detach().clone()
        step(in_ranks(torch.randn(5, 4))[0].square().sum())
        assert torch.equal(neck.prototypes, before) == (iteration < 10)
    assert optimizer.state[neck.prototypes]['step'] == 2
    assert optimizer.state[neck.mlp[0].weight]['step'] == 4


def _ibot_as_rank(rank):
    model = build(ibot())
    in_ranks = torch.nn.parallel.DistributedDataParallel(model)
    in_ranks.module.forward = lambda views: model.loss(views, [])
    masks = []
    model.backbone.patch_embed.register_forward_hook(
        lambda _, __, output: masks.append((output[0] == model.mask_token).all(-1))
    )
    torch.nn.init.normal_(model.mask_token)
    torch.manual_seed(5)
    model.parse_losses(in_ranks([view + rank for view in crops()]))[0].backward()
    for value in model.patch_head.center, model.mask_token.grad:
        assert value.any()
        mean = value.clone()
        all_reduce(mean, 'mean')
        torch.testing.assert_close(mean, value)
    # Each rank masks other patches.
    mean = masks[0].float()
    all_reduce(mean, 'mean')
    assert not torch.equal(mean, masks[0].float())


@pytest.mark.skipif(torch.cuda.is_available(), reason='forks, which CUDA does not survive')
def test_ranks_share_the_centre_and_freeze_the_last_layer(tmp_path):
    assert run_ranks(_as_rank, tmp_path / 'store') == [0, 0]


def test_outputs_are_cosines_of_normalised_prototypes():
    neck = DINONeck(4, 6, hid_channels=8, bottleneck_channels=3, freeze_last_layer=0)
    neck.init_weights()
    x = torch.randn(5, 4)
    (outputs,) = neck((torch.zeros(5, 4), x))  # the last of several
    hidden = neck.mlp(x)
    expected = F.cosine_similarity(hidden.unsqueeze(1), neck.prototypes.unsqueeze(0), dim=-1)
    torch.testing.assert_close(outputs, expected)
    with torch.no_grad():
        neck.prototypes *= torch.rand(6, 1) + 0.5
    torch.testing.assert_close(neck(x)[0], outputs)


@pytest.mark.parametrize('epochs, frozen', [(0, 0), (0.5, 5), (1, 10)])
def test_the_last_layer_is_frozen_so_many_epochs(epochs, frozen):
    neck = DINONeck(4, 6, 8, 3, freeze_last_layer=epochs)
    for iteration in 0, 4, 5, 9, 10, 99:
        set_time(iteration)
        assert trains(neck) == (iteration >= frozen)


def trains(neck):
    """Whether the prototypes do; the other layers always do, and no gradient is missing."""
    neck.zero_grad()
    neck(torch.randn(5, 4))[0].square().sum().backward()
    assert neck.mlp[0].weight.grad.any()
    return bool(neck.prototypes.grad.any())


def step_of(kind, neck):
    """How an iteration ends: a function of its loss that steps AdamW, and the AdamW."""
    optimizer = torch.optim.AdamW(neck.parameters(), lr=0.1, weight_decay=0.5)
    if kind != 'scaler':
        wrapper = dict(
            plain=OptimWrapper(optimizer),
            clipped=CPUAmpOptimWrapper(optimizer=optimizer, clip_grad=dict(max_norm=1)),
            accumulated=OptimWrapper(optimizer, accumulative_counts=2),
        )[kind]
        return wrapper.update_params, optimizer
    scaler = torch.amp.GradScaler('cpu', init_scale=8.0)

    def step(loss):
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step, optimizer


@pytest.mark.parametrize('kind', ['plain', 'clipped', 'accumulated', 'scaler'])
def test_no_optimizer_changes_a_frozen_layer(kind):
    neck = copy.deepcopy(DINONeck(4, 6, 8, 3))
    step, optimizer = step_of(kind, neck)
    for iteration in 0, 9, 10, 11:
        set_time(iteration)
        before = {name: p.detach().clone() for name, p in neck.named_parameters()}
        step(neck(torch.randn(5, 4))[0].square().sum())
        frozen = iteration < 10
        unchanged = {name for name, p in neck.named_parameters() if torch.equal(p, before[name])}
        if kind == 'accumulated' and iteration % 2 != 1:
            assert unchanged == set(before)  # it steps every other time
        else:
            assert unchanged == ({'prototypes'} if frozen else set())
        if iteration == 9:
            assert neck.prototypes not in optimizer.state
    # Adam has not counted the steps of the frozen layer.
    steps = 1 if kind == 'accumulated' else 2
    assert optimizer.state[neck.prototypes]['step'] == steps
    assert optimizer.state[neck.mlp[0].weight]['step'] == 2 * steps


@pytest.mark.parametrize('kept', [(), ('max_iters',), ('iter', 'max_iters')])
def test_the_last_layer_trains_outside_of_runs(kept):
    """In a loop of one's own, which keeps some of the Runner's numbers for the teacher."""
    info = MessageHub.get_current_instance().runtime_info
    for name in {'iter', 'max_iters', 'max_epochs'} - set(kept):
        del info[name]
    assert all(trains(DINONeck(4, 6, 8, 3, freeze_last_layer=epochs)) for epochs in (0.5, 1, 9))


def test_the_last_layer_trains_in_an_iteration_loop(tmp_path):
    model = build(dino())
    model.neck.freeze_last_layer = 1
    before = model.neck.prototypes.clone()
    views = [[view[i] for view in crops()] for i in range(4)]
    Runner(
        model,
        str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=each, data_samples=DataSample()) for each in views],
            sampler=dict(type='InfiniteSampler'),
            batch_size=2,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
    ).train()
    assert not torch.equal(model.neck.prototypes, before)


ALGORITHMS = pytest.mark.parametrize('algorithm', [dino, ibot], ids=['DINO', 'iBOT'])


@ALGORITHMS
def test_autocast_keeps_the_loss_in_float32(algorithm):
    losses = []
    for autocast in True, False:
        model = build(algorithm())
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            losses.append(model.loss(crops(), []))
    assert {loss.dtype for loss in losses[0].values()} == {torch.float32}
    for name, loss in losses[0].items():
        torch.testing.assert_close(loss, losses[1][name], rtol=2e-2, atol=2e-2)


# --------------------------------------------------------------------------------- the algorithm


def test_the_teacher_is_the_moving_average_and_sees_global_crops_alone():
    cfg = dino(base_momentum=0.25)
    cfg['backbone'] |= dict(drop_path_rate=0.5, drop_rate=0.2)
    model = build(cfg)
    teacher = model.momentum_encoder
    assert not teacher.training and model.backbone.training
    seen = []
    teacher.module[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    given = []
    head_loss = model.head.loss
    model.head.loss = lambda *outputs: given.append(outputs) or head_loss(*outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    views = crops()
    expected = None
    for step in range(3):
        now = {name: p.detach().clone() for name, p in model._student().named_parameters()}
        momentum = 0.25 * (math.cos(math.pi * step / 100) + 1) / 2
        loss = model.loss(views, [])['loss']
        # The first time it is copied.
        expected = {
            name: value if expected is None else expected[name].lerp(value, momentum)
            for name, value in now.items()
        }
        for name, value in teacher.module.named_parameters():
            torch.testing.assert_close(value, expected[name], msg=name)
            assert not value.requires_grad
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [view.shape[-1] for view in seen] == [16, 16] * 3
    student, of_teacher = given[-1]
    assert len(student) == 4 and len(of_teacher) == 2
    assert all(output.requires_grad for output in student)
    assert not any(output.requires_grad for output in of_teacher)
    # Nothing is dropped.
    assert torch.equal(teacher(views[0])[0], of_teacher[0])
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.partition('.')[0] for name in trained} == {'backbone', 'neck'}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    before = [value.clone() for value in model.state_dict().values()]
    model.eval()
    model.loss(views, [])
    assert all(map(torch.equal, model.state_dict().values(), before))


@ALGORITHMS
def test_a_resumed_run_has_the_centres_and_the_teacher(algorithm):
    model, resumed = build(algorithm()), build(algorithm(), seed=1)
    model.loss(crops(), [])
    heads = [part for name, part in model.named_children() if name in ('head', 'patch_head')]
    assert len(heads) == 1 + (algorithm is ibot) and all(head.center.any() for head in heads)
    resumed.load_state_dict(model.state_dict())
    losses = []
    for each in model, resumed:
        torch.manual_seed(9)  # as every epoch of a run is seeded anew
        losses.append(each.loss(crops(), []))
    for name, loss in losses[0].items():
        assert torch.equal(loss, losses[1][name])


def test_every_patch_of_every_crop_has_its_label():
    model = build(labelled(apl_head(grid_size=5, on_grid_mismatch='rescale')))
    head = model.pos_head[0]
    leave_tokens_alone(model)
    model.momentum_encoder.update_parameters = lambda _: None  # it has other layers now
    shapes = [(4, 3, 20, 20), (4, 3, 20, 20), (4, 3, 8, 8), (4, 3, 8, 12)]
    grids = [(shape[2] // 4, shape[3] // 4) for shape in shapes]
    views = [
        100 * i + marked_images(shape, grid) for i, (shape, grid) in enumerate(zip(shapes, grids))
    ]
    seen = record(model, (views, []))
    assert [tuple(tokens.grid_shape) for tokens in seen] == grids
    for i, (tokens, grid_shape, indices) in enumerate(seen):
        N = grid_shape[0] * grid_shape[1]
        assert indices is None
        assert torch.equal(tokens[..., 0], (100 * i + torch.arange(1.0, N + 1)).expand(4, -1))
    # The place of the head's 5x5 grid that the centre of a patch falls into: rows and columns 1.25
    # and 3.75 of two, 0.83, 2.5 and 4.17 of three. None lies between two places.
    places = [head.check(tokens).indices for tokens in seen]
    assert places[:2] == [None, None]
    assert places[2].tolist() == [[6, 8, 16, 18]] * 4
    assert places[3].tolist() == [[5, 7, 9, 15, 17, 19]] * 4


def test_the_centres_of_the_digits_local_patches_lie_inside_places():
    cfg = Config.fromfile(config_path('dino-vit-tiny_apl_digits.py'))
    side = cfg.local_crop.scale // cfg.model.backbone.patch_size
    centres = [(i + 0.5) * cfg.model.pos_head.grid_size / side for i in range(side)]
    assert not any(centre.is_integer() for centre in centres)


def weight_decay(cfg, iterations_per_epoch=2):
    """An optimizer of the config, and the scheduler of its weight decay."""
    model = MMPRETRAIN_MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    (of_decay,) = [one for one in cfg.param_scheduler if one.get('param_name') == 'weight_decay']
    of_decay = dict(of_decay, optimizer=optimizer, epoch_length=iterations_per_epoch)
    return optimizer, PARAM_SCHEDULERS.build(of_decay)


def recipe_of_the_docs():
    """Config of docs/self_supervised.md, its ViT and its projection as tiny ones."""
    text = (Path(__file__).parents[1] / 'docs/self_supervised.md').read_text()
    (recipe,) = [
        block for block in re.findall(r'```python\n(.*?)```', text, re.S) if 'LabelDINO' in block
    ]
    cfg = Config.fromstring(recipe, '.py')
    tiny = dino()
    cfg.model.backbone |= tiny['backbone'] | dict(type=cfg.model.backbone.type)
    cfg.model.neck = tiny['neck']
    cfg.model.head.out_channels = tiny['neck']['out_channels']
    cfg.model.pos_head |= dict(in_channels=16, grid_size=4)
    # The stock one is of GPUs.
    cfg.optim_wrapper = dict(
        optimizer=cfg.optim_wrapper.optimizer, paramwise_cfg=cfg.optim_wrapper.get('paramwise_cfg')
    )
    return cfg


@pytest.mark.parametrize(
    'name', ['dino-vit-tiny_digits.py', 'ibot-vit-tiny_apl_digits.py', 'docs/self_supervised.md']
)
def test_the_weight_decay_rises_over_the_epochs(name):
    """From 0.04 to 0.4 along a cosine; biases and norms keep none; also after a resume."""
    in_docs = name.startswith('docs')
    cfg = recipe_of_the_docs() if in_docs else Config.fromfile(config_path(name))
    optimizer, scheduler = weight_decay(cfg)
    total = 2 * cfg.train_cfg.max_epochs
    without = [i for i, group in enumerate(optimizer.param_groups) if not group['weight_decay']]
    assert 10 < len(without) < len(optimizer.param_groups)
    for i, group in enumerate(optimizer.param_groups):
        if all(parameter.ndim == 1 for parameter in group['params']):
            assert i in without  # a bias, or of a norm
    for step in range(1, total + 1):
        if step == 30:
            saved = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = weight_decay(cfg)
            optimizer.load_state_dict(saved[0])
            scheduler.load_state_dict(saved[1])
        optimizer.step()
        scheduler.step()
        expected = 0.4 - 0.36 * (1 + math.cos(math.pi * step / total)) / 2
        for i, group in enumerate(optimizer.param_groups):
            assert group['weight_decay'] == (0 if i in without else pytest.approx(expected))
    assert expected == pytest.approx(0.4)


def test_a_shorter_run_is_told_to_shorten_the_rise_of_the_weight_decay(monkeypatch):
    monkeypatch.setattr('poslabel_mm.launch.checks.schedule._iterations_per_epoch', lambda _: 29)
    cfg = Config.fromfile(config_path('dino-vit-tiny_digits.py'))
    cfg.train_cfg.max_epochs = 2
    with pytest.raises(UserError, match='param_scheduler.1 begins at epoch 4') as error:
        check_schedule(cfg)
    options = str(error.value).rpartition('--cfg-options ')[2].split()
    cfg.merge_from_dict({k: float(v) for k, v in (option.split('=') for option in options)})
    assert cfg.param_scheduler[2].T_max == cfg.train_cfg.max_epochs == 2
    check_schedule(cfg)


def test_labels_are_averaged_over_all_crops():
    heads = apl_head(on_grid_mismatch='rescale'), rpl_head(on_grid_mismatch='rescale')
    model = build(labelled(*heads))
    views = crops()
    losses = model.loss(views, [])
    of_views = [model.position_losses(view) for view in views]
    assert set(losses) == {'loss_view', *of_views[0]}
    for name in of_views[0]:
        mean = sum(of_view[name] for of_view in of_views) / 4
        torch.testing.assert_close(losses[name], mean)


def test_local_crops_do_not_fit_a_head_that_does_not_rescale():
    with pytest.raises(UserError, match=r"2x2 patch grid .*\(4, 4\).*on_grid_mismatch='rescale'"):
        build(labelled(apl_head())).loss(crops(), [])


def test_weight_zero_trains_as_without_heads():
    """With local crops; of two views tests/test_self_supervised_labels.py says more."""
    losses, gradients = [], []
    for cfg in dino(), labelled(apl_head(on_grid_mismatch='rescale', loss_weight=0)):
        model = build(cfg | dict(backbone=dict(dino()['backbone'], drop_path_rate=0.3)))
        torch.manual_seed(3)
        total, log = model.parse_losses(model.loss(crops(), []))
        total.backward()
        losses.append(log.get('loss_view', log['loss']))
        gradients.append(
            {
                name: p.grad
                for name, p in model.named_parameters()
                if p.grad is not None and 'pos_head' not in name
            }
        )
    assert torch.equal(*losses)
    stock, with_heads = gradients
    assert stock.keys() == with_heads.keys()
    assert all(torch.equal(gradient, with_heads[name]) for name, gradient in stock.items())


@pytest.mark.parametrize('views', [1, 2])
def test_too_few_views_are_refused(views):
    model = build(dino(num_global_crops=3))
    with pytest.raises(
        UserError, match=f'got {views} views? of an image and compares 2 or more, 3'
    ):
        model.loss(crops()[:views], [])


@pytest.mark.parametrize('out_type, shape', [('raw', '(2, 17, 16)'), ('featmap', '(2, 16, 4, 4)')])
def test_outputs_that_are_not_one_vector_an_image_are_refused(out_type, shape):
    line = (
        f'model.backbone.out_type={out_type!r} gives outputs of shape {shape}, and DINO reads '
        "one vector an image: set it to 'cls_token' or 'avg_featmap'"
    )
    for cfg in dino(), labelled(apl_head(on_grid_mismatch='rescale')):
        cfg['backbone'] |= dict(out_type=out_type)
        views = [view[:2] for view in crops()]
        with pytest.raises(UserError, match=f'^{re.escape(line)}$'):
            build(cfg).loss(views, [])


def test_a_backbone_without_out_type_is_named():
    model = build(dino())
    model.backbone = torch.nn.Conv2d(3, 16, 4)
    with pytest.raises(
        UserError, match=r'^model.backbone gives outputs of shape \(4, 16, 13, 13\)'
    ):
        model.loss(crops(), [])


def test_an_encoder_that_masks_is_refused():
    cfg = dino()
    cfg['backbone'] |= dict(type='MAEViT')
    with pytest.raises(UserError, match="^model.backbone.type='MAEViT' masks patches by itself, "):
        build(cfg)


def test_a_neck_of_another_width_is_refused():
    cfg = dino()
    cfg['neck'] |= dict(in_channels=24)
    with pytest.raises(
        UserError, match='^model.neck.in_channels=24 does not fit: the backbone has 16 channels; '
    ):
        build(cfg).loss(crops(), [])


@pytest.mark.parametrize(
    'options, line',
    [
        (dict(num_global_crops=0), 'model.num_global_crops=0 is refused'),
        *(
            (
                dict(base_momentum=momentum),
                f'model.base_momentum={momentum!r} is refused: .* above 0 and below 1$',
            )
            for momentum in (0, 1, 1.0, 2, -1, True, float('nan'), '0.1')
        ),
        (dict(neck=dict(hid_channels=0)), 'model.neck.hid_channels=0 is refused'),
        (dict(neck=dict(freeze_last_layer=-1)), 'model.neck.freeze_last_layer=-1 is refused'),
        (dict(neck=dict(num_layers=1.5)), 'model.neck.num_layers=1.5 is refused'),
        (dict(head=dict(student_temp=0)), 'model.head.student_temp=0 is refused'),
        (dict(head=dict(teacher_temp=-1)), 'model.head.teacher_temp=-1 is refused'),
        (
            dict(head=dict(teacher_temp=dict(type='linear', start=0, end=1))),
            'model.head.teacher_temp.start=0 is refused',
        ),
        (dict(head=dict(center_momentum=1.1)), 'model.head.center_momentum=1.1 is refused'),
        (dict(head=dict(out_channels=7)), 'model.head.out_channels=7 does not fit: .*12'),
    ],
)
def test_bad_options_are_refused(options, line):
    parts = {k: dino()[k] | v if isinstance(v, dict) else v for k, v in options.items()}
    for cfg in dino(), labelled(apl_head()):
        with pytest.raises(UserError, match=f'^{line}'):
            build(cfg | parts)


def test_a_temperature_that_is_never_reached_is_refused():
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=10), model=dino()))
    cfg.model.head.teacher_temp = dict(type='linear', start=0.04, end=0.07, epochs=30)
    check_head_schedules(cfg)
    cfg.model.head.teacher_temp.begin = 12
    with pytest.raises(UserError, match='^model.head.teacher_temp.begin=12 is never reached'):
        check_head_schedules(cfg)


@pytest.mark.parametrize(
    'frozen, train_cfg, line',
    [
        (None, dict(by_epoch=True, max_epochs=2), None),
        (0, dict(by_epoch=False, max_iters=100), None),
        (0, dict(by_epoch=True, max_epochs=1), None),
        (0.5, dict(by_epoch=True, max_epochs=1), None),
        (
            None,
            dict(by_epoch=False, max_iters=100),
            '=1 counts epochs, but the training loop counts iterations: set it to 0, or set '
            'train_cfg.by_epoch=True and max_epochs$',
        ),
        (0.5, dict(by_epoch=False, max_iters=100), '=0.5 counts epochs'),
        (
            None,
            dict(by_epoch=True, max_epochs=1),
            r'=1 freezes the prototypes to the end: the run has 1 epoch \(train_cfg.max_epochs\); '
            'set it to less$',
        ),
        (10, dict(by_epoch=True, max_epochs=10), '=10 freezes .* the run has 10 epochs '),
    ],
)
def test_prototypes_that_never_train_are_refused(frozen, train_cfg, line):
    cfg = Config(dict(train_cfg=train_cfg, model=dino()))
    del cfg.model.neck['freeze_last_layer']  # 1 where it is not set
    if frozen is not None:
        cfg.model.neck.freeze_last_layer = frozen
    if line is None:
        check_head_schedules(cfg)
    else:
        with pytest.raises(UserError, match='^model.neck.freeze_last_layer' + line):
            check_head_schedules(cfg)
