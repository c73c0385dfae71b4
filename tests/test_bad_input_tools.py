"""Each mistake is one line that names it, and leaves the work dir alone."""

import os
import shutil
import socket
import subprocess
import sys
from os import path as osp

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from tiny_run import listing, make_config, make_images, train, write_config

from poslabel_mm.launch import preparation
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.checks.schedule import _iterations_per_epoch, check_schedule

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with images in `train` and a finished run in `run`."""
    folder = tmp_path_factory.mktemp('trained')
    data = make_images(folder / 'train')
    train(make_config(folder, data, 'run', **{'train_cfg.max_epochs': 2}))
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path / 'copy')
    pointer = tmp_path / 'copy' / 'run' / 'last_checkpoint'
    pointer.write_text(str(pointer.parent / 'epoch_2.pth'))
    return tmp_path / 'copy'


@pytest.fixture
def fails(monkeypatch, capfd):

    def call(tool, *argv):
        """Run a tool that is to fail; returns its one line."""
        argv = [f'{tool.__name__}.py', *map(str, argv)]
        monkeypatch.setattr(sys, 'argv', argv)
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            tool()
        assert left.value.code == 1
        (line,) = (
            line
            for line in capfd.readouterr().err.splitlines()
            if line.strip() and 'Warning' not in line and not line.startswith(('  ', '[ WARN'))
        )
        assert line.startswith('error: ')
        assert line.endswith('...') or not line.endswith('.')
        return line

    return call


JOINED = dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1')
OF_MPI = dict(
    RANK='OMPI_COMM_WORLD_RANK',
    WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
    LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK',
)


@pytest.fixture
def started(monkeypatch):
    """Set what a launcher sets, restored also where a tool writes it."""

    def start(launcher, **changed):
        for name, value in (JOINED | dict(MASTER_PORT='29500') | changed).items():
            monkeypatch.setenv(name, value)
        if launcher == 'mpi':
            for name, of_mpi in OF_MPI.items():
                monkeypatch.setenv(of_mpi, (JOINED | changed)[name])
        return '--launcher', launcher

    return start


@pytest.mark.parametrize('launcher', ['pytorch', 'mpi'])
@pytest.mark.parametrize('name', ['RANK', 'WORLD_SIZE'])
def test_a_rank_that_is_no_number(fails, started, config, launcher, name):
    # Whether there is a batch depends on the number of processes.
    options = '--cfg-options', 'train_dataloader.drop_last=True'
    line = fails(launch.train, config, *started(launcher, **{name: 'abc'}), *options)
    name = OF_MPI[name] if launcher == 'mpi' else name
    assert line == f'error: {name}=abc is no whole number'


def test_a_local_rank_that_is_no_number(config, monkeypatch, capfd):
    monkeypatch.setenv('LOCAL_RANK', 'abc')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config)])
    with pytest.raises(SystemExit) as left:
        launch.train()
    assert left.value.code == 1
    assert 'error: LOCAL_RANK=abc is no whole number\n' in capfd.readouterr().err


@pytest.mark.parametrize('launcher', ['pytorch', 'mpi'])
def test_a_port_that_is_taken(fails, started, folder, config, launcher):
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        port = str(other.getsockname()[1])
        arguments = started(launcher, MASTER_PORT=port)
        line = fails(launch.train, config, '--work-dir', folder / 'new', *arguments)
    assert line.startswith(f'error: MASTER_PORT={port} is taken') and 'set another' in line


@pytest.fixture
def config(folder):
    return write_config(folder, str(folder / 'train'))


# ------------------------------------------------------------------ arguments


def test_config_that_does_not_exist(fails):
    line = fails(launch.train, 'configs/vit-b_apl_in1.py')
    assert 'configs/vit-b_apl_in1.py does not exist' in line
    assert 'vit-b_apl_in1k.py' in line


def test_config_that_is_a_folder(fails, folder):
    assert 'is no config' in fails(launch.train, folder)


def test_config_with_a_syntax_error(fails, folder):
    path = folder / 'broken.py'
    path.write_text('a = 1\nmodel = dict(\n')
    assert f'{path}, line 2' in fails(launch.train, path)
    path = folder / 'child.py'
    path.write_text("_base_ = './broken.py'\n")
    assert 'line 2' in fails(launch.train, path)


def test_base_that_does_not_exist(fails, folder):
    path = folder / 'child.py'
    path.write_text("_base_ = './nowhere.py'\n")
    assert 'nowhere.py' in fails(launch.train, path)


@pytest.mark.parametrize(
    'option, named',
    [
        ('lr', 'got lr'),
        ('custom_hooks.9.interval=1', 'custom_hooks.9'),
        ('model.backbone.depth=[1,2', '='),
    ],
)
def test_wrong_cfg_options(fails, folder, config, option, named):
    line = fails(launch.train, config, '--work-dir', folder / 'new', '--cfg-options', option)
    assert '--cfg-options' in line and named in line
    assert not (folder / 'new').exists()


def test_unknown_stock_tool(fails):
    line = fails(lambda: launch.other_tool(['analysis_tools/get_flop.py']))
    assert 'analysis_tools/get_flops.py' in line


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('dist_train.sh', ['c.py']),
        ('dist_train.sh', ['c.py', '-1']),
        ('dist_train.sh', ['c.py', '0']),
        ('dist_test.sh', ['c.py', 'a.pth', 'two']),
        ('slurm_train.sh', ['partition', 'job', 'c.py']),
        ('slurm_test.sh', ['partition', 'job', 'c.py']),
    ],
)
def test_scripts_say_how_they_are_used(script, arguments):
    run = subprocess.run(
        [osp.join(ROOT, 'tools', script), *arguments], capture_output=True, text=True
    )
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith('usage: ') and script in line


@pytest.mark.parametrize(
    'script, arguments',
    [
        ('dist_train.sh', ['c.py', '2']),
        ('dist_test.sh', ['c.py', 'a.pth', '2']),
    ],
)
def test_scripts_say_what_to_install(tmp_path, script, arguments):
    bare = tmp_path / 'python'
    # -I -S: no site-packages, hence neither a stack nor torch.
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    run = subprocess.run(
        [osp.join(ROOT, 'tools', script), *arguments],
        env={**os.environ, 'PYTHON': str(bare)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith('error: poslabel_mm needs MMPretrain')


def test_more_processes_than_gpus(fails, started, folder, config, monkeypatch):
    monkeypatch.setattr(preparation, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    # Told by the first process, for whom there is a GPU.
    line = fails(launch.train, config, *started('pytorch'), '--work-dir', folder / 'new')
    assert '2 processes were requested' in line and '1 GPUs' in line


# -------------------------------------------------------------------- options

MIXUP = "model.update(train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8)]))\n"


def _advised(line):
    return line.rpartition('--cfg-options ')[2].split()


def _works(monkeypatch, *argv):
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, argv)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    launch.train()


@pytest.mark.parametrize(
    'options',
    [
        ['--auto-scale-lr'],
        ['--cfg-options', 'auto_scale_lr.enable=True'],
        ['--auto-scale-lr', '--cfg-options', 'auto_scale_lr.base_batch_size=0'],
    ],
)
def test_auto_scale_lr_without_a_batch_size(fails, folder, config, monkeypatch, options):
    argv = config, '--work-dir', folder / 'new'
    line = fails(launch.train, *argv, *options)
    assert 'auto_scale_lr.base_batch_size is' in line
    assert not (folder / 'new').exists()
    advice = line.rpartition('--cfg-options ')[2].replace('=N', '=8')
    _works(
        monkeypatch, *argv, '--auto-scale-lr', '--cfg-options', advice, 'train_cfg.max_epochs=1'
    )
    saved = torch.load(folder / 'new' / 'epoch_1.pth', weights_only=True)
    (group,) = saved['optimizer']['param_groups']
    assert group['initial_lr'] == 1e-2 * 4 / 8


def test_auto_scale_lr_of_a_batch_sampler(fails, folder):
    config = write_config(
        folder,
        str(folder / 'train'),
        """
train_dataloader.pop('batch_size')
train_dataloader['batch_sampler'] = dict(type='BatchSampler', batch_size=4, drop_last=False)
auto_scale_lr = dict(base_batch_size=8)
""",
    )
    assert 'train_dataloader has no batch_size' in fails(
        launch.train, config, '--work-dir', folder / 'new', '--auto-scale-lr'
    )


@pytest.mark.parametrize(
    'text, option, named',
    [
        (MIXUP, 'model.head.num_classes=5', 'data_preprocessor.num_classes'),
        (
            'data_preprocessor.update(to_onehot=True)',
            'model.head.num_classes=5',
            'data_preprocessor.num_classes',
        ),
        (
            "data_preprocessor.update(batch_augments=dict(augments='Mixup'))",
            'model.head.num_classes=5',
            'data_preprocessor.num_classes',
        ),
        (
            MIXUP + 'model.update(data_preprocessor=data_preprocessor)',
            'model.head.num_classes=5',
            'model.data_preprocessor.num_classes',
        ),
        (
            MIXUP + "data_preprocessor.pop('num_classes')",
            'log_level=ERROR',
            'data_preprocessor.num_classes',
        ),
        (
            "model['head']['loss']['num_classes'] = 2",
            'model.head.num_classes=5',
            'model.head.loss.num_classes',
        ),
    ],
)
def test_number_of_classes_that_was_left_behind(fails, folder, monkeypatch, text, option, named):
    config = write_config(folder, str(folder / 'train'), text)
    argv = config, '--work-dir', folder / 'new', '--cfg-options', option
    line = fails(launch.train, *argv)
    assert 'model.head.num_classes is ' in line and f' {named} is ' in line
    assert not (folder / 'new').exists()
    monkeypatch.setattr('mmengine.runner.Runner.train', lambda runner: None)
    if 'batch_augments' not in text:
        _works(monkeypatch, *argv, *_advised(line))


def test_number_of_classes_that_nothing_reads(folder, config, monkeypatch):
    """Without one-hot labels MMPretrain does not look at it."""
    _works(
        monkeypatch,
        config,
        '--work-dir',
        folder / 'new',
        '--cfg-options',
        'data_preprocessor.num_classes=7',
        'train_cfg.max_epochs=1',
    )


# ------------------------------------------------------------------- schedule

SCHEDULE = """
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=3,
         convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=3, T_max=27,
         convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=30)
train_dataloader.update(batch_size=1)  # 12 iterations an epoch
"""
BY_EPOCH = SCHEDULE.replace('convert_to_iter_based=True', 'by_epoch=True')
BY_ITERATION = SCHEDULE.replace('convert_to_iter_based=True', 'by_epoch=False')
THREE_PARTS = SCHEDULE.replace('T_max=27', 'T_max=20, end=23').replace(
    'True)]',
    """True),
    dict(type='ConstantLR', begin=23, factor=0.1,
         convert_to_iter_based=True)]""",
)
COUNTING = SCHEDULE.replace('by_epoch=True, max_epochs=30', 'by_epoch=False, max_iters=2')


@pytest.mark.parametrize('max_epochs', [1, 2])
def test_run_is_shorter_than_its_warmup(fails, folder, monkeypatch, max_epochs):
    config = write_config(folder, str(folder / 'train'), SCHEDULE)
    argv = [config, '--work-dir', folder / 'new', '--cfg-options']
    line = fails(launch.train, *argv, f'train_cfg.max_epochs={max_epochs}')
    assert f'train_cfg.max_epochs={max_epochs} and 12 iterations' in line
    assert 'param_scheduler.1 begins at epoch 3' in line
    assert not (folder / 'new').exists()
    # What it advises works.
    _works(monkeypatch, *argv, *_advised(line))
    assert (folder / 'new' / f'epoch_{max_epochs}.pth').exists()


@pytest.mark.parametrize('has_type', [False, True])
def test_a_run_by_iterations_is_asked_for_on_the_command_line(
    fails, folder, monkeypatch, has_type
):
    """`max_epochs=None` leaves out what the config has; without it, one line names it."""
    loop = "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)"
    config = write_config(
        folder, str(folder / 'train'), 'param_scheduler = None' + f'\n{loop}' * has_type
    )
    argv = [config, '--work-dir', folder / 'new', '--cfg-options']
    argv += ['train_cfg.by_epoch=False', 'train_cfg.max_iters=3']
    line = fails(launch.train, *argv)
    found = 'type=EpochBasedTrainLoop and by_epoch=False' if has_type else 'does not apply to'
    assert found in line
    assert not (folder / 'new').exists()
    _works(monkeypatch, *argv, *_advised(line))
    assert (folder / 'new' / 'iter_1.pth').exists()


@pytest.fixture(scope='module')
def more_images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train', 12)


@pytest.mark.parametrize(
    'schedule, batch_size, max_epochs, advised',
    [
        # 8, 6, 3, 2 and 1 iterations an epoch.
        (SCHEDULE, 3, 1, 'max_epochs=1 {0}.end=0.2 {1}.begin=0.2 {1}.T_max=0.8'),
        (SCHEDULE, 4, 1, 'max_epochs=1 {0}.end=0.2 {1}.begin=0.2 {1}.T_max=0.8'),
        (SCHEDULE, 8, 1, 'max_epochs=1 {0}.end=0.4 {1}.begin=0.4 {1}.T_max=0.6'),
        (SCHEDULE, 12, 1, 'max_epochs=1 {0}.end=0.5 {1}.begin=0.5 {1}.T_max=0.5'),
        (SCHEDULE, 24, 1, 'max_epochs=2 {0}.end=1 {1}.begin=1 {1}.T_max=1'),
        (SCHEDULE, 24, 3, 'max_epochs=3 {0}.end=1 {1}.begin=1 {1}.T_max=2'),
        (BY_EPOCH, 3, 1, 'max_epochs=2 {0}.end=1 {1}.begin=1 {1}.T_max=1'),
        (BY_ITERATION, 12, 1, 'max_epochs=1 {0}.end=1 {1}.begin=1 {1}.T_max=1'),
        (
            THREE_PARTS,
            8,
            1,
            'max_epochs=1 {0}.end=0.4 {1}.begin=0.4 {1}.end=0.7 {1}.T_max=0.3 {2}.begin=0.7',
        ),
        (
            THREE_PARTS,
            24,
            1,
            'max_epochs=3 {0}.end=1 {1}.begin=1 {1}.end=2 {1}.T_max=1 {2}.begin=2',
        ),
        (
            COUNTING,
            8,
            None,
            'max_iters=2 {0}.end=1 {1}.begin=1 {1}.T_max=1 '
            '{0}.by_epoch=False {0}.convert_to_iter_based=False '
            '{1}.by_epoch=False {1}.convert_to_iter_based=False',
        ),
    ],
)
def test_advice_on_a_schedule_works(
    fails, folder, more_images, monkeypatch, schedule, batch_size, max_epochs, advised
):
    schedule = schedule.replace('batch_size=1)', f'batch_size={batch_size})')
    config = write_config(folder, more_images, schedule)
    argv = [config, '--work-dir', folder / 'new', '--cfg-options']
    asked = [f'train_cfg.max_epochs={max_epochs}'] if max_epochs else []
    line = fails(launch.train, *argv, *asked, 'log_level=ERROR')
    assert ' '.join(_advised(line)) == 'train_cfg.' + advised.format(
        *(f'param_scheduler.{i}' for i in range(3))
    )
    assert not (folder / 'new').exists()
    built = []

    def build(runner):
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        built.extend(runner.build_param_scheduler(runner.param_schedulers))
        for one, later in zip(built, built[1:]):
            assert one.begin < one.end == later.begin < later.end

    monkeypatch.setattr('mmengine.runner.Runner.train', build)
    _works(monkeypatch, *argv, *_advised(line))
    assert len(built) == schedule.count('type=')


@pytest.mark.parametrize('batch_size', [3, 4, 8])
def test_schedule_that_is_shorter_than_an_iteration(
    fails, folder, more_images, monkeypatch, batch_size
):
    """0.1 of 8, 6 or 3 iterations is none: MMEngine cuts to whole numbers."""
    config = write_config(folder, more_images, SCHEDULE)
    argv = [
        config,
        '--work-dir',
        folder / 'new',
        '--cfg-options',
        f'train_dataloader.batch_size={batch_size}',
    ]
    line = fails(
        launch.train,
        *argv,
        'train_cfg.max_epochs=1',
        'param_scheduler.0.end=0.1',
        'param_scheduler.1.begin=0.1',
        'param_scheduler.1.T_max=0.9',
    )
    assert (
        f'param_scheduler.0 begins at epoch 0 and ends at epoch 0.1, with '
        f'train_cfg.max_epochs=1 and {24 // batch_size} iterations' in line
    )
    assert not (folder / 'new').exists()
    _works(monkeypatch, *argv, 'param_scheduler.0.end=0.1', *_advised(line))


def test_schedule_counts_the_iterations_of_all_processes(folder, more_images, monkeypatch):
    cfg = make_config(folder, more_images, 'new')
    cfg.train_dataloader.batch_size = 3
    for launcher, variable in (
        ('none', 'WORLD_SIZE'),
        ('pytorch', 'WORLD_SIZE'),
        ('slurm', 'SLURM_NTASKS'),
    ):
        monkeypatch.setenv(variable, '4')
        cfg.launcher = launcher
        assert _iterations_per_epoch(cfg) == (8 if launcher == 'none' else 2)


def test_schedule_that_fits_does_not_read_the_data(folder):
    config = write_config(folder, str(folder / 'nowhere'), SCHEDULE)
    check_schedule(Config.fromfile(config))


def test_schedule_in_iterations(fails, folder):
    config = write_config(
        folder,
        str(folder / 'train'),
        """
param_scheduler = dict(
    type='CosineAnnealingLR', by_epoch=False, begin=50, T_max=50)
train_cfg = dict(by_epoch=False, max_iters=20)
""",
    )
    line = fails(launch.train, config, '--work-dir', folder / 'new')
    assert line.endswith(
        'train_cfg.max_iters=20 param_scheduler.begin=10 param_scheduler.T_max=10'
    )
    assert not (folder / 'new').exists()


# ----------------------------------------------------------------------- data


def test_data_folder_is_missing(fails, folder):
    config = write_config(folder, str(folder / 'nowhere'))
    line = fails(launch.train, config, '--work-dir', folder / 'new')
    assert str(folder / 'nowhere') in line
    assert 'train_dataloader.dataset' in line and '<class>' in line
    assert not (folder / 'new').exists()


def test_data_folder_is_empty(fails, folder):
    (folder / 'empty' / 'class').mkdir(parents=True)
    config = write_config(folder, str(folder / 'empty'))
    line = fails(launch.train, config, '--work-dir', folder / 'new')
    assert f'{folder / "empty"} ' in line and 'holds no images' in line
    assert not (folder / 'new').exists()


def test_imagenet_is_not_there(fails, folder, monkeypatch):
    monkeypatch.chdir(folder)
    line = fails(launch.train, 'vit-b_apl_in1k.py')
    assert 'data/imagenet' in line
    assert osp.join('data/imagenet/train', '<class>', '<image>.JPEG') in line
    assert not (folder / 'work_dirs').exists()


@pytest.mark.parametrize(
    'damage, num_workers',
    [
        ('empty', 0),
        ('empty', 1),
        ('truncated', 0),
        ('text', 0),
    ],
)
def test_unreadable_image_is_named(fails, folder, config, damage, num_workers):
    path = folder / 'train' / 'b' / '3.jpg'
    Image.new('RGB', (16, 16), 'red').save(path)
    content = dict(empty=b'', truncated=path.read_bytes()[:200], text=b'hello')[damage]
    path.write_bytes(content)
    line = fails(
        launch.train,
        config,
        '--work-dir',
        folder / 'new',
        '--cfg-options',
        f'train_dataloader.num_workers={num_workers}',
    )
    assert f'cannot read image {path}, its {len(content)} bytes' in line
    assert 'Traceback' not in line


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    'name', ['UserError: x.png', 'poslabel_mm.errors.UserError: x.png', 'two  spaces.png']
)
def test_unreadable_image_with_the_name_of_an_error(fails, folder, config, name, num_workers):
    path = folder / 'train' / 'b' / name
    path.write_bytes(b'')
    line = fails(
        launch.train,
        config,
        '--work-dir',
        folder / 'new',
        '--cfg-options',
        f'train_dataloader.num_workers={num_workers}',
    )
    assert line == (
        f'error: cannot read image {path}, its 0 bytes are no whole image: '
        'replace it, or remove it from the data'
    )


# ---------------------------------------------------------------- checkpoints


class _Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def _resume(fails, folder, config, *resume):
    before = listing(folder / 'run')
    line = fails(launch.train, config, '--work-dir', folder / 'run', *resume)
    assert listing(folder / 'run') == before
    return line


def test_resume_from_nothing(fails, folder, config):
    line = _resume(fails, folder, config, '--resume', folder / 'nowhere.pth')
    assert 'nowhere.pth does not exist' in line


def test_resume_from_a_truncated_file(fails, folder, config):
    path = folder / 'run' / 'epoch_2.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in _resume(fails, folder, config, '--resume', path)


def test_automatic_resume_names_the_newest_intact_one(fails, folder, config):
    path = folder / 'run' / 'epoch_2.pth'
    path.write_bytes(path.read_bytes()[:-1000])
    line = _resume(fails, folder, config, '--resume')
    assert str(path) in line
    assert line.endswith(f'--resume {folder / "run" / "epoch_1.pth"}')


def test_resume_from_a_checkpoint_with_code(fails, folder, config):
    path, trap = folder / 'code.pth', folder / 'executed'
    torch.save(dict(state_dict={}, meta=_Code(trap)), path)
    line = _resume(fails, folder, config, '--resume', path)
    assert str(path) in line and 'refused' in line
    assert not trap.exists()


def test_resume_from_weights_alone(fails, folder, config):
    path = folder / 'weights.pth'
    torch.save(dict(state_dict={}), path)
    line = _resume(fails, folder, config, '--resume', path)
    assert 'no optimizer' in line and f'load_from={path}' in line


def test_resume_from_another_model(fails, folder, config):
    path = folder / 'run' / 'epoch_1.pth'
    content = torch.load(path, weights_only=True)
    weights = content['state_dict']
    weights['backbone.other'] = weights.pop('backbone.cls_token')
    torch.save(content, folder / 'other.pth')
    line = _resume(fails, folder, config, '--resume', folder / 'other.pth')
    assert 'lacks backbone.cls_token' in line and 'backbone.other' in line


def test_resume_with_other_sizes(fails, folder, config):
    line = _resume(fails, folder, config, '--resume', '--cfg-options', 'model.head.num_classes=5')
    assert 'head.layers.head.weight' in line


@pytest.mark.parametrize(
    'saved, wanted, named',
    [
        # torch fails on the state of the first, and only in a step of the second.
        (dict(type='SGD', lr=0.1, momentum=0.9), dict(type='AdamW', lr=1e-3), 'it has no step'),
        (dict(type='SGD', lr=0.1), dict(type='AdamW', lr=1e-3), 'no betas, eps'),
        (dict(type='AdamW', lr=1e-3), dict(type='SGD', lr=0.1), 'no dampening'),
    ],
)
def test_resume_with_another_optimizer(fails, folder, saved, wanted, named):
    data = str(folder / 'train')
    cfg = make_config(folder, data, 'run', **{'train_cfg.max_epochs': 1})
    cfg.optim_wrapper.optimizer = saved
    train(cfg)
    config = write_config(folder, data, f'optim_wrapper = dict(optimizer={wanted})\n')
    line = _resume(fails, folder, config, '--resume')
    assert f'this optimizer ({wanted["type"]})' in line
    assert 'epoch_1.pth' in line and 'load_from=' in line
    assert named in line


def test_resume_with_other_parameter_groups(fails, folder):
    config = write_config(
        folder,
        str(folder / 'train'),
        'optim_wrapper.update(paramwise_cfg=dict(bypass_duplicate=True, '
        'custom_keys=dict(cls_token=dict(lr_mult=0.1))))\n',
    )
    line = _resume(fails, folder, config, '--resume')
    assert 'different number of parameter groups' in line


def test_resume_with_another_precision(folder, config, monkeypatch):
    """--amp may come and go: the optimizer is the same."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(
        sys, 'argv', ['train.py', config, '--work-dir', str(folder / 'run'), '--resume', '--amp']
    )
    launch.train()
    assert (folder / 'run' / 'epoch_3.pth').exists()


def test_test_with_another_model(fails, folder, config):
    path = folder / 'other.pth'
    torch.save(dict(state_dict=dict(fc=torch.zeros(1))), path)
    line = fails(launch.test, config, path, '--work-dir', folder / 'new')
    assert str(path) in line and 'backbone.cls_token' in line
    assert not (folder / 'new').exists()


def test_test_without_a_checkpoint(fails, folder, config):
    line = fails(launch.test, config, folder / 'nowhere.pth', '--work-dir', folder / 'new')
    assert 'nowhere.pth does not exist' in line
    assert not (folder / 'new').exists()


@pytest.mark.parametrize('pos_head_in', ['checkpoint', 'model'])
def test_test_accepts_what_it_can_use(folder, config, monkeypatch, pos_head_in):
    """Weights alone are enough, and position heads may come or stay away."""
    content = torch.load(folder / 'run' / 'epoch_2.pth', weights_only=True)
    weights = content['state_dict']
    if pos_head_in == 'checkpoint':
        weights['pos_head.fc1.weight'] = torch.zeros(1)
    else:
        config = write_config(folder, str(folder / 'train'), POS_HEAD)
    torch.save(dict(state_dict=weights), folder / 'weights.pth')
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'test.py',
            config,
            str(folder / 'weights.pth'),
            '--work-dir',
            str(folder / 'new'),
            '--out',
            str(folder / 'metrics.json'),
            '--out-item',
            'metrics',
            '--amp',
        ],
    )
    monkeypatch.setenv('LOCAL_RANK', '0')
    launch.test()
    assert 'accuracy/top1' in (folder / 'metrics.json').read_text()
    assert os.listdir(folder / 'new')


POS_HEAD = """
model.update(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(
        type='poslabel_mm.PositionalLabelHead', in_channels=16, grid_size=4))
"""


# ---------------------------------------------- a schedule that the checkpoint is not of


def test_a_longer_run_with_a_schedule_of_the_old_length(fails, folder, monkeypatch):
    """One line, before anything is made; what it says can be typed."""
    fixed = (
        "param_scheduler = [dict(type='LinearLR', end=1), "
        "dict(type='CosineAnnealingLR', begin=1, end=2, T_max=1)]\n"
    )
    config = write_config(folder, str(folder / 'train'), fixed)
    work_dir = folder / 'run'
    before = listing(work_dir)
    arguments = config, '--work-dir', work_dir, '--resume', '--cfg-options'
    line = fails(launch.train, *arguments, 'train_cfg.max_epochs=4')
    advised = 'train_cfg.max_epochs=4 param_scheduler.1.end=4 param_scheduler.1.T_max=3'
    assert 'max_epochs is 4 and was 2' in line and line.endswith(f'--cfg-options {advised}')
    assert listing(work_dir) == before
    monkeypatch.setattr(sys, 'argv', ['train.py', *map(str, arguments), *advised.split()])
    launch.train()
    schedulers = torch.load(work_dir / 'epoch_4.pth', weights_only=True)['param_schedulers']
    assert (schedulers[1]['end'], schedulers[1]['T_max']) == (4, 3)


def test_a_resume_takes_the_hook_for_its_options(folder, config, monkeypatch):
    """A stock config is resumed with its own options as well."""
    with open(config, 'a') as file:
        file.write('custom_hooks = []\n')
    monkeypatch.setattr(
        sys,
        'argv',
        [
            'train.py',
            config,
            '--work-dir',
            str(folder / 'run'),
            '--resume',
            '--cfg-options',
            'train_cfg.max_epochs=3',
            'optim_wrapper.optimizer.weight_decay=0.3',
        ],
    )
    launch.train()
    saved = torch.load(folder / 'run' / 'epoch_3.pth', weights_only=True)
    assert saved['optimizer']['param_groups'][0]['weight_decay'] == 0.3
