"""The tools: MMPretrain's own options, on any machine, from anywhere."""

import os
import os.path as osp
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain import get_model
from PIL import Image
from stack_check import fork_tool
from tiny_run import RANDOM, make_config, make_images, train, weights, write_config

from poslabel_mm.engine import CPUAmpOptimWrapper
from poslabel_mm.experiments.work import typed_command
from poslabel_mm.launch import preparation
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.arguments import find_config
from poslabel_mm.launch.resume_command import resume_command
from poslabel_mm.typed_command import python_as_typed

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


@pytest.fixture
def built(monkeypatch):
    """Runners that the tool builds; they do not run."""
    runners = []
    monkeypatch.setattr(Runner, 'train', lambda self: runners.append(self))
    monkeypatch.setattr(Runner, 'test', lambda self: runners.append(self))
    return runners


def _call(monkeypatch, tool, *argv):
    monkeypatch.setattr(sys, 'argv', [f'{tool.__name__}.py', *map(str, argv)])
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
    tool()


def test_train_workers_start_anew_each_epoch(tmp_path, data, monkeypatch, built):
    config = write_config(tmp_path, data)
    workers = '--cfg-options', 'train_dataloader.num_workers=1'
    asked = 'train_dataloader.persistent_workers=True'
    for extra in (), (asked,):
        _call(monkeypatch, launch.train, config, '--work-dir', tmp_path / 'run', *workers, *extra)
    default, persistent = (run.cfg.train_dataloader for run in built)
    assert default.persistent_workers is False
    assert persistent.persistent_workers is True


def test_amp_without_a_gpu_is_bfloat16(tmp_path, data, monkeypatch, built):
    if torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    _call(
        monkeypatch,
        launch.train,
        write_config(tmp_path, data),
        '--amp',
        '--work-dir',
        tmp_path / 'run',
    )
    (runner,) = built
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(wrapper, CPUAmpOptimWrapper)


def test_config_is_found_by_its_name(tmp_path, monkeypatch):
    config = find_config('vit-b_apl_in1k.py')
    assert osp.samefile(config, osp.join(ROOT, 'configs', 'vit-b_apl_in1k.py'))
    # A file of the same name in the working directory comes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'vit-b_apl_in1k.py').touch()
    assert find_config('vit-b_apl_in1k.py') == 'vit-b_apl_in1k.py'


def test_configs_hold_the_runtime_hooks():
    cfg = Config.fromfile(find_config('vit-b_apl_in1k.py'))
    assert cfg.default_hooks.checkpoint.type.endswith('AtomicCheckpointHook')
    assert [hook.type.split('.')[1] for hook in cfg.custom_hooks] == [
        'EpochSeedHook',
        'NonFiniteLossHook',
        'StopSignalHook',
        'ResumeOptionsHook',
    ]
    assert '_scope_' not in cfg.visualizer


@pytest.mark.parametrize(
    'typed, again',
    [
        ('train.py c.py', 'train.py c.py --resume'),
        ('train.py --resume a.pth c.py --amp', 'train.py c.py --amp --resume'),
        ('train.py c.py --resume --amp', 'train.py c.py --amp --resume'),
        ('train.py c.py --resume=a.pth', 'train.py c.py --resume'),
        ("train.py 'my c.py'", "train.py 'my c.py' --resume"),
    ],
)
def test_resume_command(tmp_path, monkeypatch, typed, again):
    monkeypatch.chdir(tmp_path)  # not above the Python that runs this
    monkeypatch.setenv('PATH', '')
    monkeypatch.delenv('POSLABEL_MM_COMMAND', raising=False)
    assert resume_command(shlex.split(typed)) == f'{shlex.quote(python_as_typed())} {again}'
    monkeypatch.setenv('POSLABEL_MM_COMMAND', typed)
    assert resume_command(['other.py']) == again


def test_resume_command_has_the_python_that_was_typed(tmp_path, monkeypatch):
    """A virtual environment's Python is a link: the one that it leads to is another."""
    monkeypatch.delenv('POSLABEL_MM_COMMAND', raising=False)
    monkeypatch.chdir(tmp_path)
    own, other = tmp_path / '.venv' / 'bin' / 'python', tmp_path / 'bin' / 'python'
    for path in own, other:
        path.parent.mkdir(parents=True)
    other.write_text('')
    other.chmod(0o755)
    own.symlink_to(other)
    monkeypatch.setattr(sys, 'executable', str(own))
    monkeypatch.setenv('PATH', str(other.parent))
    assert resume_command(['train.py']) == '.venv/bin/python train.py --resume'
    monkeypatch.setattr(sys, 'argv', ['tools/reproduce.py', '--row', 'a b'])
    assert typed_command() == ".venv/bin/python tools/reproduce.py --row 'a b'"
    monkeypatch.chdir(own.parent)  # where the name alone would be another
    assert resume_command(['train.py']) == f'{own} train.py --resume'
    monkeypatch.setenv('PATH', str(own.parent))
    assert resume_command(['train.py']) == 'python train.py --resume'


@pytest.mark.parametrize(
    'script, settings, argv',
    [
        ('dist_train.sh', dict(PYTHON='a b/python', PORT='29501'), ['c.py', '2']),
        ('slurm_train.sh', dict(GPUS='4', SRUN_ARGS='-t 9'), ['part', 'job', 'c.py', 'my dir']),
    ],
)
def test_resume_command_of_a_script_has_what_was_set(
    tmp_path, monkeypatch, script, settings, argv
):
    # In place of python and of srun: says what the script has handed on.
    program = '#!/bin/sh\nprintf %s "$POSLABEL_MM_COMMAND"\n'
    for path in tmp_path / 'a b' / 'python', tmp_path / 'srun':
        path.parent.mkdir(exist_ok=True)
        path.write_text(program)
        path.chmod(0o755)
    names = (
        'PYTHON',
        'NNODES',
        'NODE_RANK',
        'MASTER_ADDR',
        'PORT',
        'GPUS',
        'GPUS_PER_NODE',
        'CPUS_PER_TASK',
        'SRUN_ARGS',
        'POSLABEL_MM_COMMAND',
    )
    env = {key: value for key, value in os.environ.items() if key not in names}
    env['PATH'] = f'{tmp_path}{os.pathsep}{env["PATH"]}'
    tool = osp.join(ROOT, 'tools', script)
    handed_on = subprocess.run(
        [tool, *argv],
        cwd=tmp_path,
        env={**env, **settings},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    monkeypatch.setenv('POSLABEL_MM_COMMAND', handed_on)
    again = resume_command([])
    # As a shell reads it, it is the same call with the same settings.
    assert again.endswith(f'{shlex.join([tool, *argv])} --resume')
    prefix = again[: again.index(tool)]
    seen = subprocess.run(
        ['bash', '-c', f'{prefix} env'], env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {f'{name}={value}' for name, value in settings.items()} <= set(seen)


@pytest.mark.parametrize(
    'script, arguments, handed_on',
    [
        (
            'slurm_train.sh',
            ['c.py', 'my dir', '--amp'],
            ['c.py', '--work-dir=my dir', '--launcher=slurm', '--amp'],
        ),
        (
            'slurm_test.sh',
            ['c.py', 'a.pth', '--tta'],
            ['c.py', 'a.pth', '--launcher=slurm', '--tta'],
        ),
    ],
)
@pytest.mark.parametrize(
    'settings, layout',
    [
        (dict(), ['gpu:8', '8', '8']),
        (dict(GPUS='2'), ['gpu:2', '2', '2']),
        (dict(GPUS='16'), ['gpu:8', '16', '8']),
        (dict(GPUS='16', GPUS_PER_NODE='4'), ['gpu:4', '16', '4']),
    ],
)
def test_what_srun_is_told(tmp_path, script, arguments, handed_on, settings, layout):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ('GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS', 'PYTHON')
    }
    env['PATH'] = f'{tmp_path}{os.pathsep}{env["PATH"]}'
    tool = osp.join(ROOT, 'tools', script)
    told = subprocess.run(
        [tool, 'part', 'job', *arguments],
        env={**env, **settings},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    gres, ntasks, per_node = layout
    assert told == [
        '-p',
        'part',
        '--job-name=job',
        f'--gres={gres}',
        f'--ntasks={ntasks}',
        f'--ntasks-per-node={per_node}',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
        osp.join(ROOT, 'tools', script[len('slurm_') : -len('.sh')] + '.py'),
        *handed_on,
    ]
    wrong = subprocess.run(
        [tool, 'part', 'job', *arguments],
        env={**env, 'GPUS': 'two'},
        capture_output=True,
        text=True,
    )
    assert (wrong.returncode, wrong.stderr) == (2, 'usage: GPUS=two is no number from 1 on\n')


@pytest.mark.parametrize(
    'restarts, saved, resumes',
    [(None, True, False), ('0', True, False), ('1', False, False), ('2', True, True)],
)
def test_requeued_slurm_job_resumes_what_was_saved(tmp_path, restarts, saved, resumes):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    if saved:
        (tmp_path / 'last_checkpoint').touch()
    env = {**os.environ, 'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'}
    env.pop('SLURM_RESTART_COUNT', None)
    if restarts is not None:
        env['SLURM_RESTART_COUNT'] = restarts
    told = subprocess.run(
        [
            osp.join(ROOT, 'tools', 'slurm_train.sh'),
            'part',
            'job',
            'c.py',
            tmp_path,
            '--resume',
            'other.pth',
        ],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # The last one counts: not where it began, but where it was stopped.
    assert told.endswith('--resume\nother.pth\n' + '--resume\n' * resumes)


def test_checkpoint_and_data_are_looked_at_by_one_process_of_a_machine(
    tmp_path, data, monkeypatch, built
):
    looked = []
    monkeypatch.setattr(preparation, 'check_resume', looked.append)
    monkeypatch.setattr(preparation, 'check_weights', lambda *args: looked.append(1))
    monkeypatch.setattr(preparation, 'check_data', lambda *args: looked.append(1))
    config = write_config(tmp_path, data)
    for rank, expected in (1, 0), (0, 4):
        # As Slurm says it; the stock tool would set LOCAL_RANK to 0.
        monkeypatch.setenv('SLURM_LOCALID', str(rank))
        for tool, argv in ((launch.train, ['--resume', 'a.pth']), (launch.test, ['a.pth'])):
            monkeypatch.setenv('LOCAL_RANK', '')  # for it to be restored
            monkeypatch.delenv('LOCAL_RANK')
            monkeypatch.setattr(
                sys, 'argv', ['tool.py', config, *argv, '--work-dir', str(tmp_path / 'run')]
            )
            tool()
        assert len(looked) == expected


def test_another_stock_tool_takes_a_config_by_name(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    launch.other_tool(['misc/print_config.py', 'vit-b_apl_in1k.py'])
    assert 'poslabel_mm.PositionalLabelClassifier' in capsys.readouterr().out


@pytest.mark.parametrize(
    'name, side',
    [('vit-tiny_apl_digits', 8), ('vit-tiny_fashion-mnist', 28), ('vit-tiny_fashion-mnist', 40)],
)
def test_cam_of_images_that_the_dataset_has_in_memory(tmp_path, monkeypatch, name, side):
    pytest.importorskip('pytorch_grad_cam')
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    image, weights, out = (str(tmp_path / part) for part in ('a.png', 'a.pth', 'cam.png'))
    make_images(tmp_path / 'images')
    Image.open(tmp_path / 'images/a/0.png').resize((side, side)).save(image)
    torch.save(get_model(name).state_dict(), weights)
    launch.other_tool(
        [
            'visualization/vis_cam.py',
            image,
            f'{name}.py',
            weights,
            '--vit-like',
            '--save-path',
            out,
        ]
    )
    size = 24 if 'digits' in name else 28
    assert Image.open(out).size == (size, size)


def test_another_stock_tool_reads_what_a_base_has_stamped(tmp_path, data, monkeypatch):
    """It builds the loader, whose `collate_fn` is stamped by `mmpretrain::`."""
    path = tmp_path / 'stamped.py'
    path.write_text(f"""
_base_ = 'mmpretrain::mae/mae_vit-base-p16_8xb512-amp-coslr-400e_in1k.py'
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type='CustomDataset', data_root={data!r},
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
""")
    tool = tmp_path / 'tool.py'
    tool.write_text("""
import sys
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile(sys.argv[1])
batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
assert batch['inputs'].shape == (2, 3, 16, 16)
""")
    monkeypatch.setattr(launch, 'tool_path', str)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    launch.other_tool([str(tool), str(path)])


@pytest.mark.parametrize(
    'config',
    [
        'vit-tiny_apl_digits.py',
        'mae-vit-b_apl_in1k.py',  # mixed precision
        'vit-b_apl_from-mae_in1k.py',  # a learning rate for every layer
    ],
)
def test_the_schedule_of_any_config_can_be_plotted(tmp_path, monkeypatch, capsys, config):
    pyplot = pytest.importorskip('matplotlib.pyplot')
    pyplot.switch_backend('Agg')
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'argv', list(sys.argv))
    path = tmp_path / 'schedule.png'
    base = Config.fromfile(find_config(config))
    launch.other_tool(
        [
            'visualization/vis_scheduler.py',
            config,
            '-d',
            str(base.train_dataloader.batch_size),
            '--not-show',
            '-s',
            str(path),
            '--cfg-options',
            f'work_dir={tmp_path}',
        ]
    )
    (rates,) = (line.get_ydata() for line in pyplot.gca().get_lines())
    assert len(rates) == base.train_cfg.max_epochs
    assert max(rates) == pytest.approx(base.optim_wrapper.optimizer.lr, rel=1e-2)
    assert path.stat().st_size > 0
    pyplot.close('all')


def test_validation_killed_in_the_last_epoch_is_made_up_by_the_tool(tmp_path, data, monkeypatch):
    config = write_config(
        tmp_path,
        data,
        """
val_dataloader, val_evaluator, val_cfg = test_dataloader, test_evaluator, dict()
custom_hooks = [dict(type='poslabel_mm.EpochSeedHook'), dict(type='Killer')]
custom_imports = dict(imports=['killer'])
train_cfg.update(max_epochs=1)
""",
    )
    (tmp_path / 'killer.py').write_text(KILLER)
    argv = [config, '--work-dir', str(tmp_path / 'run'), '--resume']
    env = dict(PYTHONPATH=str(tmp_path), LOCAL_RANK='0')
    killed = fork_tool('train.py', *argv, folder=tmp_path, **env)
    assert killed.returncode == -signal.SIGKILL
    monkeypatch.syspath_prepend(tmp_path)
    _call(monkeypatch, launch.train, *argv)
    logs = [path.read_text() for path in tmp_path.glob('run/*/vis_data/scalars.json')]
    assert sum('accuracy/top1' in text for text in logs) == 1


KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Killer(Hook):
    def after_val_iter(self, runner, *args, **kwargs):
        if runner.iter_of_start == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_train(self, runner):
        runner.iter_of_start = runner.iter
"""


def test_stopped_and_resumed_by_command_is_the_run_that_never_stopped(tmp_path, data, monkeypatch):
    """The whole way, from a folder with a space, as a user would type it."""
    folder = tmp_path / 'a folder'
    folder.mkdir()
    cfg = make_config(tmp_path, data, 'whole', **RANDOM)
    train(cfg)
    cfg.custom_hooks.append(dict(type='Stopper', priority='VERY_HIGH'))
    cfg.custom_imports = dict(imports=['stopper'])
    cfg.work_dir = None
    cfg.dump(folder / 'tiny.py')
    (folder / 'stopper.py').write_text(STOPPER)
    monkeypatch.delenv('POSLABEL_MM_RESUME_COMMAND', raising=False)
    # A cold start: other tests fork the tool off the process that tests.
    stopped = subprocess.run(
        [sys.executable, osp.join(ROOT, 'tools', 'train.py'), 'tiny.py'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': str(folder)},
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 143, stopped.stderr
    (line,) = (
        text for text in stopped.stderr.splitlines() if text.startswith('stopped by SIGTERM')
    )
    saved = osp.join('work_dirs', 'tiny', 'epoch_2_iter_2.pth')
    assert 'saved at iteration 2 of epoch 2 in ' in line and saved in line
    python, script, *argv = shlex.split(line.rpartition('to resume: ')[2])
    assert osp.samefile(shutil.which(python), sys.executable) and script.endswith('train.py')

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    _call(monkeypatch, launch.test, 'tiny.py', saved)
    _call(monkeypatch, launch.train, *argv)
    whole = weights(tmp_path / 'whole' / 'epoch_3.pth')
    resumed = weights(folder / 'work_dirs' / 'tiny' / 'epoch_3.pth')
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


STOPPER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Stopper(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 4 and not runner._resume:
            os.kill(os.getpid(), signal.SIGTERM)
"""
