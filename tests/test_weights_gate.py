"""Every way in for weights asks the same: what does the checkpoint leave of the model?"""

import copy
import math
import os
import zipfile

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import VisionTransformerClsHead
from mmpretrain.registry import MODELS
from test_bad_input_tools import config, fails, folder, trained  # noqa: F401
from tiny_run import listing

from poslabel_mm import UserError
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.checks.checkpoint import check_load_from, check_weights
from poslabel_mm.launch.checks.init_cfg import check_pretrained
from poslabel_mm.launch.checks.resume import check_resume

WAYS = 'load_from', 'backbone', 'model', 'resume', 'test'


def look(way: str, path, cfg: Config) -> None:
    """Check a checkpoint as the tools do before a run that takes it in one of the ways."""
    cfg = copy.deepcopy(cfg)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    if way == 'test':
        return check_weights(str(path), cfg)
    if way == 'backbone':
        cfg.model.backbone.init_cfg = dict(init_cfg, prefix='backbone.')
        return check_pretrained(cfg)
    if way == 'model':
        cfg.model.init_cfg = init_cfg
        return check_pretrained(cfg)
    cfg.load_from = str(path)
    return check_resume(cfg) if way == 'resume' else check_load_from(cfg)


def refused(way: str, path, cfg: Config) -> str:
    with pytest.raises(UserError) as caught:
        look(way, path, cfg)
    line = str(caught.value)
    assert str(path) in line and '\n' not in line
    return line


@pytest.fixture
def cfg(config):  # noqa: F811
    return Config.fromfile(config)


@pytest.fixture
def checkpoint(folder):  # noqa: F811
    """What the finished run has saved, with position heads."""
    return torch.load(folder / 'run' / 'epoch_2.pth', weights_only=True)


def saved(folder, content, name='other.pth'):  # noqa: F811
    torch.save(content, folder / name)
    return folder / name


def of_model(cfg, **options):
    """The state dict of a model that differs in some options."""
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict(options)
    return with_weights(cfg).state_dict()


def with_weights(cfg):
    """The model of a config with the weights that torch draws."""
    return MODELS.build(copy.deepcopy(cfg.model))


# A head of another grid than the backbone's is refused unless it is told what to do with it.
OTHER_GRID = {'model.pos_head.0.grid_size': 5, 'model.pos_head.0.on_grid_mismatch': 'rescale'}


# -------------------------------------------------------------- other models


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'option, named',
    [
        ({'arch.num_layers': 3}, 'it has {}layers.2.ln1.weight'),
        ({'arch.num_layers': 1}, 'it lacks {}layers.1.ln1.weight'),
        (
            {'arch.feedforward_channels': 24},
            'it has other sizes for {}layers.0.ffn.layers.0.0.weight',
        ),
    ],
)
def test_another_backbone_is_refused(folder, cfg, checkpoint, way, option, named):  # noqa: F811
    options = {f'model.backbone.{key}': value for key, value in option.items()}
    path = saved(folder, dict(checkpoint, state_dict=of_model(cfg, **options)))
    line = refused(way, path, cfg)
    assert named.format('' if way == 'backbone' else 'backbone.') in line


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('key', ['layers.0.attn.qkv.weight', 'patch_embed.projection.bias'])
def test_one_missing_weight_is_named(folder, cfg, checkpoint, way, key):  # noqa: F811
    del checkpoint['state_dict'][f'backbone.{key}']
    line = refused(way, saved(folder, checkpoint), cfg)
    assert f'lacks {key}' in line or f'lacks backbone.{key}' in line


@pytest.mark.parametrize('way', ['load_from', 'backbone', 'model'])
@pytest.mark.parametrize(
    'change',
    [
        'classes',
        'grid',
        'no heads',
        'no encoding',
        'decoder',
        'another norm',
        'data parallel',
        'weights alone',
    ],
)
def test_training_may_start_from(folder, cfg, checkpoint, way, change):  # noqa: F811
    weights = checkpoint['state_dict']
    if change == 'classes':
        weights.update(of_model(cfg, **{'model.head.num_classes': 7}))
    elif change == 'grid':
        weights.update(of_model(cfg, **{**OTHER_GRID, 'model.pos_head.1.hidden_channels': 6}))
    elif change == 'no heads':
        checkpoint['state_dict'] = {
            key: value for key, value in weights.items() if key.startswith('backbone.')
        }
    elif change == 'no encoding':
        del weights['backbone.pos_embed']
    elif change == 'decoder':
        weights['neck.decoder_pred.weight'] = torch.zeros(3, 3)
    elif change == 'another norm':
        cfg.model.backbone.update(out_type='avg_featmap', final_norm=False)
    elif change == 'data parallel':
        if way == 'backbone':
            pytest.skip('MMEngine takes `module.` off where there is no prefix')
        checkpoint['state_dict'] = {f'module.{key}': value for key, value in weights.items()}
    else:
        checkpoint = weights
    look(way, saved(folder, checkpoint), cfg)


def test_testing_is_stricter(folder, cfg, checkpoint):  # noqa: F811
    weights = checkpoint['state_dict']
    others = of_model(cfg, **{'model.head.num_classes': 7, **OTHER_GRID})
    heads = {key: value for key, value in others.items() if key.startswith('pos_head.')}
    look('test', saved(folder, dict(state_dict={**weights, **heads})), cfg)
    line = refused('test', saved(folder, dict(state_dict=others)), cfg)
    assert 'it has other sizes for head.layers.head.weight, head.layers.head.bias.' in line
    weights['neck.decoder_pred.weight'] = torch.zeros(3, 3)
    assert 'neck.decoder_pred.weight' in refused('test', saved(folder, checkpoint), cfg)


SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        img_size=64,
        arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
    ),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=64),
)
SWINS = dict(
    stock=dict(),
    cpe=dict(type='poslabel_mm.PositionalSwinTransformer'),
    rpb=dict(type='poslabel_mm.PositionalSwinTransformer', pos_encoding='rpb'),
    nope=dict(type='poslabel_mm.PositionalSwinTransformer', pos_encoding='none'),
)


@pytest.mark.parametrize('way', ['load_from', 'backbone', 'model'])
def test_swins_take_from_each_other_what_the_docs_say(tmp_path, way):
    cfgs = {}
    for name, change in SWINS.items():
        cfgs[name] = Config(dict(model=copy.deepcopy(SWIN), default_scope='mmpretrain'))
        cfgs[name].model.backbone.update(change)
        saved(tmp_path, dict(state_dict=with_weights(cfgs[name]).state_dict()), f'{name}.pth')
    for cfg in cfgs.values():
        for name in cfgs:
            look(way, tmp_path / f'{name}.pth', cfg)
        deeper = copy.deepcopy(cfg)
        deeper.model.backbone.arch.depths[2] = 3
        assert 'stages.2.blocks.2.' in refused(way, tmp_path / 'stock.pth', deeper)


def test_a_part_that_loads_while_it_is_built_is_checked(folder, cfg, checkpoint):  # noqa: F811
    path = saved(
        folder, dict(checkpoint, state_dict=of_model(cfg, **{'model.backbone.arch.num_layers': 3}))
    )
    vit = cfg.model.backbone
    vit.init_cfg = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    cfg.model = dict(
        type='ImageClassifier',
        head=cfg.model.head,
        backbone=dict(type='LoRAModel', module=vit, rank=2, targets=[dict(type='qkv')]),
    )
    with pytest.raises(UserError) as caught:
        check_pretrained(cfg)
    assert 'other.pth is not of backbone.module: it has layers.2.' in str(caught.value)
    assert 'model.backbone.module.init_cfg.checkpoint=FILE' in str(caught.value)
    vit.init_cfg.checkpoint = str(folder / 'run' / 'epoch_2.pth')
    cfg.model.backbone.module = vit
    check_pretrained(cfg)


# ---------------------------------------------------------- names and prefixes


def vit(prefix=''):
    """Keys of timm's ViT, which MAE's code and DeiT's share, of the tiny model's sizes."""
    weights = {
        'cls_token': torch.zeros(1, 1, 16),
        'pos_embed': torch.zeros(1, 17, 16),
        'patch_embed.proj.weight': torch.zeros(16, 3, 4, 4),
        'norm.weight': torch.zeros(16),
    }
    for layer in range(2):
        weights[f'blocks.{layer}.attn.qkv.weight'] = torch.zeros(48, 16)
    return {prefix + key: value for key, value in weights.items()}


DINO = {'mask_token': torch.zeros(1, 16), 'blocks.0.ls1.gamma': torch.zeros(16)}
HEAD = {'head.weight': torch.zeros(2, 16)}
FOREIGN = [
    (vit(), 'timm'),
    ({**vit(), **HEAD}, 'timm'),
    (dict(state_dict=vit('module.')), 'timm'),
    (dict(model=vit()), "MAE's own code, and its weights lie below 'model'"),
    (
        dict(
            model={
                **vit(),
                'decoder_blocks.0.norm1.weight': torch.zeros(8),
                'decoder_embed.weight': torch.zeros(8, 16),
            }
        ),
        "MAE's own code",
    ),
    (dict(model={**vit(), **HEAD}), "DeiT's own code"),
    ({**vit(), 'dist_token': torch.zeros(1, 1, 16)}, "DeiT's own code"),
    ({**vit(), **DINO}, 'DINOv2'),
    (
        dict(
            teacher={
                **vit('backbone.'),
                'backbone.blocks.0.0.ls1.gamma': torch.zeros(16),
                'backbone.mask_token': torch.zeros(1, 16),
            }
        ),
        'DINOv2',
    ),
    (
        {
            'vit.embeddings.cls_token': torch.zeros(1, 1, 16),
            'vit.encoder.layer.0.attention.attention.query.weight': torch.zeros(16, 16),
        },
        'a Hugging Face model',
    ),
    ({'encoder.layers.encoder_layer_0.ln_1.weight': torch.zeros(16)}, 'torchvision'),
]


@pytest.mark.parametrize('content, owner', FOREIGN)
def test_foreign_keys_are_recognised(folder, cfg, content, owner):  # noqa: F811
    path = saved(folder, content)
    for way in WAYS:
        assert f'its keys are those of {owner}' in refused(way, path, cfg)


def test_keys_of_timm_are_timms(folder, cfg):  # noqa: F811
    timm = pytest.importorskip('timm')
    model = timm.create_model(
        'vit_tiny_patch16_224',
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=2,
    )
    cfg.model.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(saved(folder, model.state_dict()))
    )
    with pytest.raises(UserError, match='it lacks patch_embed.* those of timm'):
        check_pretrained(cfg)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(
    'content, said',
    [
        ([torch.zeros(2)], 'holds a list'),
        (torch.zeros(2), 'holds a Tensor'),
        (dict(), 'holds no weights|nothing under the prefix|no state_dict'),
        (dict(state_dict=[1]), 'its state_dict holds no names|no optimizer'),
        (dict(model=dict(weight=torch.zeros(2))), "its weights lie below 'model'"),
    ],
)
def test_what_is_no_state_dict(folder, cfg, way, content, said):  # noqa: F811
    path = saved(folder, content)
    with pytest.raises(UserError, match=said):
        look(way, path, cfg)


def test_a_prefix_is_read_as_mmengine_reads_it(folder, cfg, checkpoint):  # noqa: F811
    path = str(folder / 'run' / 'epoch_2.pth')

    def advice(**init_cfg):
        cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=path, **init_cfg)
        with pytest.raises(UserError) as caught:
            check_pretrained(cfg)
        return str(caught.value)

    # MMEngine makes it '.', with which no key begins.
    assert "MMEngine takes '' for '.': leave model.backbone.init_cfg.prefix" in advice(prefix='')
    assert 'its keys begin with backbone, head, pos_head' in advice(prefix='encoder')
    said = 'set model.backbone.init_cfg.prefix=backbone.'
    for options in dict(), dict(prefix=None):
        assert advice(**options).endswith(said)
    for prefix in 'backbone', 'backbone.':
        cfg.model.backbone.init_cfg.prefix = prefix
        check_pretrained(cfg)
    # A file of the backbone alone has none.
    path = str(
        saved(
            folder,
            {
                key[len('backbone.') :]: value
                for key, value in checkpoint['state_dict'].items()
                if key.startswith('backbone.')
            },
        )
    )
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=path)
    check_pretrained(cfg)
    line = refused('load_from', path, cfg.copy())
    assert line.endswith(
        '--cfg-options model.backbone.init_cfg.type=Pretrained '
        f'model.backbone.init_cfg.checkpoint={path}'
    )


def test_a_list_of_init_cfgs_and_the_short_form_are_read(folder, cfg):  # noqa: F811
    for change in (
        dict(
            init_cfg=[
                dict(type='Constant', layer='Linear', val=0),
                dict(type='Pretrained', checkpoint='nowhere.pth'),
            ]
        ),
        dict(pretrained='nowhere.pth'),
    ):
        changed = copy.deepcopy(cfg)
        changed.model.update(change)
        with pytest.raises(UserError, match='nowhere.pth does not exist'):
            check_pretrained(changed)


# ------------------------------------------------------------------ the tools


@pytest.mark.parametrize(
    'options',
    [
        ['load_from={}'],
        ['model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.checkpoint={}'],
        ['model.init_cfg.type=Pretrained', 'model.init_cfg.checkpoint={}'],
    ],
)
def test_the_tool_refuses_before_it_makes_anything(fails, folder, config, options):  # noqa: F811
    path = saved(folder, vit())
    before = listing(folder)
    line = fails(
        launch.train,
        config,
        '--work-dir',
        folder / 'new',
        '--cfg-options',
        *(option.format(path) for option in options),
    )
    assert f'error: checkpoint {path} is not of ' in line
    translates = '`poslabel import FILE --from timm --to CONFIG` translates them'
    assert f'those of timm: {translates}; name another with --cfg-options ' in line
    assert not (folder / 'new').exists() and listing(folder) == before


def test_the_tool_does_not_test_a_cut_model(fails, folder, config, cfg, checkpoint):  # noqa: F811
    path = saved(folder, dict(state_dict=of_model(cfg, **{'model.backbone.arch.num_layers': 3})))
    line = fails(launch.test, config, path, '--work-dir', folder / 'new')
    assert 'backbone.layers.2.ln1.weight' in line and 'the model has no place' in line
    assert not (folder / 'new').exists()


# --------------------------------------------------------------------- damage


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_no_numbers_are_named(folder, cfg, checkpoint, way, value):  # noqa: F811
    checkpoint['state_dict']['backbone.layers.1.ln1.weight'][3] = value
    line = refused(way, saved(folder, checkpoint), cfg)
    assert 'holds NaN or infinity in backbone.layers.1.ln1.weight' in line


class MaskedHead(VisionTransformerClsHead):
    """A head with a saved buffer that holds infinities on purpose."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer('allowed', torch.tensor([-math.inf, 0.0, math.inf]))


@pytest.mark.parametrize('way', WAYS)
def test_infinities_that_the_model_has_on_purpose_pass(folder, cfg, checkpoint, way):  # noqa: F811
    cfg.model.head.type = MaskedHead
    own = {'head.allowed': torch.tensor([-math.inf, 0.0, math.inf])}
    average = {f'module.{key}': value for key, value in own.items()}
    checkpoint = dict(checkpoint, ema_state_dict=average)
    checkpoint['state_dict'] |= own
    look(way, saved(folder, checkpoint), cfg)
    for value in math.inf, math.nan:
        checkpoint['state_dict']['head.allowed'] = torch.tensor([-math.inf, value, math.inf])
        if way == 'backbone' and value == math.inf:
            continue  # a mask for all that the backbone knows
        assert 'NaN or infinity in head.allowed' in refused(way, saved(folder, checkpoint), cfg)
    checkpoint['state_dict'] |= own
    average['module.head.allowed'] = torch.full((3,), math.inf)
    if way == 'resume':
        line = refused(way, saved(folder, checkpoint), cfg)
        assert 'NaN or infinity in ema_state_dict.module.head.allowed' in line


@pytest.mark.parametrize('way', ['load_from', 'backbone', 'model'])
def test_a_mask_of_a_part_that_the_model_lacks_passes(folder, cfg, checkpoint, way):  # noqa: F811
    mask = torch.zeros(2, 2).masked_fill(torch.ones(2, 2).triu(1) == 1, -math.inf)
    checkpoint['state_dict']['text.mask'] = mask
    look(way, saved(folder, checkpoint), cfg)
    checkpoint['state_dict']['text.weight'] = mask + 1
    assert 'infinity in text.weight' in refused(way, saved(folder, checkpoint), cfg)


@pytest.mark.parametrize('way', WAYS)
def test_no_random_weights_are_drawn(folder, cfg, checkpoint, way):  # noqa: F811
    path = saved(folder, checkpoint)
    before = torch.get_rng_state()
    look(way, path, cfg)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_average_that_is_resumed_is_looked_at(folder, cfg, checkpoint):  # noqa: F811
    checkpoint['ema_state_dict'] = {'module.head.bias': torch.tensor([0.0, float('nan')])}
    path = saved(folder, checkpoint)
    assert 'in ema_state_dict.module.head.bias' in refused('resume', path, cfg)
    look('load_from', path, cfg)


def test_automatic_resume_passes_over_nan(fails, folder, config, checkpoint):  # noqa: F811
    checkpoint['state_dict']['backbone.cls_token'][:] = float('nan')
    saved(folder / 'run', checkpoint, 'epoch_2.pth')
    line = fails(launch.train, config, '--work-dir', folder / 'run', '--resume')
    assert 'NaN or infinity in backbone.cls_token' in line
    assert line.endswith(f'--resume {folder / "run" / "epoch_1.pth"}')


def flip(path, record: zipfile.ZipInfo) -> None:
    """Flip one bit in the middle of a record's bytes."""
    with open(path, 'r+b') as file:
        file.seek(record.header_offset + 26)
        lengths = file.read(4)
        start = file.tell() + sum(int.from_bytes(lengths[i : i + 2], 'little') for i in (0, 2))
        file.seek(start + record.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def test_one_flipped_bit_is_found_in_every_record(folder, cfg):  # noqa: F811
    path = folder / 'run' / 'epoch_2.pth'
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    assert len(records) > 40
    for index, record in enumerate(records):
        path.write_bytes(whole)
        flip(path, record)
        line = refused(WAYS[index] if index < len(WAYS) else 'test', path, cfg)
        assert f'is damaged: its record {record.filename} differs' in line


def test_a_file_without_checksums_passes(folder, cfg, checkpoint):  # noqa: F811
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(folder, checkpoint)
    finally:
        torch.serialization.set_crc32_options(True)
    torch.save(checkpoint, folder / 'old.pth', _use_new_zipfile_serialization=False)
    for way in WAYS:
        look(way, path, cfg)
        look(way, folder / 'old.pth', cfg)


@pytest.mark.parametrize(
    'kind, said',
    [
        ('folder', 'is a folder, such as of a sharded checkpoint'),
        ('fifo', 'is a named pipe (FIFO), not a file'),
        ('empty', 'cannot be read: it is empty'),
        ('zeros', 'cannot be read: it is damaged, it begins with zeros alone'),
        ('text', "cannot be read: it is text ('version https://git-lfs.github.com/spec/' ...)"),
        ('safetensors', 'it is a safetensors file'),
        ('cut', 'cannot be read: it is damaged, or no checkpoint of PyTorch'),
        ('image', 'cannot be read: it is damaged, or no checkpoint of PyTorch'),
        ('zip', 'cannot be read: it is damaged, or no checkpoint of PyTorch'),
        ('pickle', 'cannot be read: it is damaged, or no checkpoint of PyTorch'),
        ('gone', 'does not exist'),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(folder, cfg, kind, said):  # noqa: F811
    path = folder / 'other.pth'
    if kind == 'folder':
        path.mkdir()
    elif kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('a.txt', 'a')
    elif kind != 'gone':
        path.write_bytes(
            dict(
                empty=b'',
                zeros=bytes(5000),
                pickle=b'\x80\x02]q\x00K\x01a.',
                text=b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
                safetensors=(2).to_bytes(8, 'little') + b'{}',
                image=b'\x89PNG\r\n\x1a\n' + bytes(99),
                cut=(folder / 'run' / 'epoch_2.pth').read_bytes()[:-400],
            )[kind]
        )
    for way in WAYS:
        line = refused(way, path, cfg)
        assert said in line
        assert 'weights_only' not in line and 'TORCH_' not in line
