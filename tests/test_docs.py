"""Every snippet and every command of the README and of docs/ works as it is typed.

A config trains one step, prepared by ``tools/train.py``, through its own data loader: on a few
images in ImageNet's place, with one block a stage. A command is run by bash with stand-ins for
Python and the other programs; what they are told is then read by the tools' own parsers.
A snippet or a command that no rule here takes makes a test fail.
"""

import ast
import functools
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import mmpretrain
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner
from PIL import Image

from poslabel_mm import UserError, __main__, cli, config_path
from poslabel_mm.benchmark.command import parse_args
from poslabel_mm.datasets.command import main as convert
from poslabel_mm.engine.cpu import SET
from poslabel_mm.experiments import chain as chain_module
from poslabel_mm.experiments import command as reproduce_module
from poslabel_mm.experiments import plot as plot_module
from poslabel_mm.experiments import quickstart as quickstart_module
from poslabel_mm.experiments.manifest import load_paper
from poslabel_mm.experiments.selection import select
from poslabel_mm.interop import export_command, import_command
from poslabel_mm.launch import probe as probe_module
from poslabel_mm.launch import tools as launch
from poslabel_mm.launch.arguments import (
    check_options,
    checked_arguments,
    find_config,
    read_config,
    shipped_config,
)
from poslabel_mm.launch.checks.options import check_auto_scale_lr, check_num_classes
from poslabel_mm.launch.stock_tools import tool_path
from poslabel_mm.launch.vis_backends import make_room_for_backends
from poslabel_mm.models import heads
from poslabel_mm.models.heads.base_head import BaseHead
from poslabel_mm.registry import MODELS
from poslabel_mm.visualization import look as look_module

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


class Snippet(NamedTuple):
    page: str
    language: str  # of a fenced block; 'command' of a command within a sentence
    text: str

    def __str__(self) -> str:
        return f'{self.page}:{self.text.strip().splitlines()[0]}'


COMMAND = re.compile(r'(\w+=\S* )*(python|bash|pip|apt-get|tools/\S+\.sh) ')


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text('utf-8')
    blocks = re.findall(r'^```([^\n]*)\n(.*?)^```', text, re.M | re.S)
    plain = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    spans = [
        ' '.join(span.split())
        for paragraph in plain.split('\n\n')
        for span in re.findall(r'`([^`]+)`', paragraph)
    ]
    return [Snippet(page.name, language, code) for language, code in blocks] + [
        Snippet(page.name, 'command', span) for span in dict.fromkeys(spans) if COMMAND.match(span)
    ]


ALL = [snippet for page in PAGES for snippet in snippets(page)]
PYTHON = [snippet for snippet in ALL if snippet.language == 'python']
COMMANDS = [snippet for snippet in ALL if snippet.language in ('bash', 'command')]


def test_no_snippet_is_left_out():
    assert {snippet.language for snippet in ALL} == {'python', 'bash', 'command', 'bibtex', 'yaml'}
    fences = sum(page.read_text('utf-8').count('\n```') for page in PAGES)
    assert fences == 2 * sum(snippet.language != 'command' for snippet in ALL)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    headings = re.findall(r'^#+ (.*)$', page.read_text('utf-8'), re.M)
    return {re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-') for text in headings}


@pytest.mark.parametrize('page', [*PAGES, ROOT / 'CONTRIBUTING.md'], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r'^```.*?^```', '', page.read_text('utf-8'), flags=re.M | re.S)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if target.startswith(('http:', 'https:')):
            continue
        path, _, anchor = target.partition('#')
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


# ------------------------------------------------------------------- configs


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """A folder that has few images where ImageNet is looked for."""
    folder = tmp_path_factory.mktemp('documented')
    rng = np.random.default_rng(0)
    (folder / 'data/imagenet/meta').mkdir(parents=True)
    for split in 'train', 'val':
        (folder / 'data/imagenet' / split).mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f'data/imagenet/{split}/{i}.JPEG')
        (folder / f'data/imagenet/meta/{split}.txt').write_text(
            ''.join(f'{i}.JPEG {i}\n' for i in range(4))
        )
    return folder


@pytest.fixture
def step(images, monkeypatch):
    """Trains a config for one step; returns the Runner and what it logged."""
    stepped = []

    def one_step(runner: Runner) -> None:
        optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
        batch = next(iter(runner.build_dataloader(runner.cfg.train_dataloader)))
        losses = runner.model.train_step(batch, optim_wrapper)
        if runner.cfg.get('val_dataloader'):
            batch = next(iter(runner.build_dataloader(runner.cfg.val_dataloader)))
            assert len(runner.model.val_step(batch)) == 2
        stepped.append((runner, losses))

    def call(config: str):
        (images / 'my_config.py').write_text(config)
        (images / 'shallow.py').write_text(shallow(Config.fromfile('my_config.py')))
        monkeypatch.setattr(Runner, 'train', one_step)
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
        monkeypatch.setattr(sys, 'argv', ['train.py', 'shallow.py'])
        launch.train()
        ((runner, losses),) = stepped
        assert losses and all(torch.isfinite(loss).all() for loss in losses.values())
        return runner, losses

    monkeypatch.chdir(images)
    return call


def shallow(cfg: Config) -> str:
    """A config's child with one block a stage, and two images a batch."""
    model = {}
    arch, kind = cfg.model.backbone.get('arch'), cfg.model.backbone.type
    if arch == 'mocov3-small':
        model['backbone'] = dict(
            arch=dict(
                _delete_=True, embed_dims=384, num_layers=1, num_heads=12, feedforward_channels=16
            )
        )
        model['neck'] = dict(hid_channels=16)
        model['head'] = dict(predictor=dict(hid_channels=16))
    elif arch in ('b', 'base'):
        model['backbone'] = dict(
            arch=dict(
                _delete_=True,
                embed_dims=128,
                depths=[1] * 4,
                num_heads=[4, 8, 16, 32],
            )
            if kind == 'SwinTransformer'
            else dict(
                _delete_=True, embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=16
            )
        )
    neck = (cfg.model.get('neck') or {}).get('type')
    if neck == 'MAEPretrainDecoder':
        model['neck'] = dict(decoder_depth=1, decoder_embed_dim=16, decoder_num_heads=2)
    if neck == 'poslabel_mm.DINONeck' and arch == 'base':  # eight crops, in bfloat16
        model['backbone']['arch'].update(embed_dims=24)
        model['neck'] = dict(
            in_channels=24, out_channels=16, hid_channels=16, bottleneck_channels=16
        )
        model['head'] = dict(out_channels=16)
        model['pos_head'] = dict(in_channels=24)
    lines = [
        f'{loader} = dict(batch_size=2, num_workers=0)'
        for loader in ('train_dataloader', 'val_dataloader')
        if cfg.get(loader)
    ]
    return '\n'.join(["_base_ = './my_config.py'", f'model = {model}', *lines])


# What a fragment is put into: the README's first config.
FIRST = next(snippet.text for snippet in PYTHON if snippet.page == 'README.md')

SIMCLR = """
_base_ = 'mmpretrain::simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py'
model = dict(
    type='poslabel_mm.PositionalLabelSimCLR',
    backbone=dict(
        _delete_=True, type='VisionTransformer', img_size=224, patch_size=16,
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
        out_type='avg_featmap'),
    neck=dict(in_channels=16, hid_channels=16, with_avg_pool=False),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=16, grid_size=14))
"""


def names(text: str) -> set[str]:
    targets = [node.targets[0] for node in ast.parse(text).body if isinstance(node, ast.Assign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def losses_of_heads(text: str) -> set[str]:
    """What a config with the heads that a text names has to log."""
    heads = map(MODELS.get, re.findall(r"'poslabel_mm\.(\w+Head)'", text))
    # An algorithm's own head has no such name.
    return {head.loss_name for head in heads if hasattr(head, 'loss_name')} or {'loss_apl'}


@pytest.mark.parametrize('snippet', PYTHON, ids=str)
def test_python(snippet, step):
    text = snippet.text
    if 'poslabel_mm.mmselfsup' in text:
        # tests/test_mmselfsup.py trains it under MMSelfSup; here it is MMPretrain's.
        own = (ROOT / 'poslabel_mm/mmselfsup.py').read_text('utf-8')
        for name in re.findall(r"type='(\w+)'", text):
            assert f'class {name}(' in own
            text = text.replace(f"'{name}'", f"'poslabel_mm.{name}'")
        base = next(other.text for other in PYTHON if other.page == snippet.page)
        text = base.splitlines()[0] + '\n' + text.partition('\n')[2]
        assert set(step(text)[1]) >= {'loss_recon', 'loss_apl'}
    elif snippet.page in ('segmentation.md', 'detection.md'):
        # tests/under_mmseg.py and under_mmdet.py run them, where the packages are installed.
        ast.parse(text)
    elif text.count('_base_ =') > 1:
        # One line or another.
        for node in ast.parse(text).body:
            line = ast.get_source_segment(text, node)
            path = Path('one_of_them.py')
            path.write_text(line)
            assert Config.fromfile(str(path)).model.type.startswith('poslabel_mm.')
        step(line)
    elif '_base_' in names(text):
        assert losses_of_heads(text) <= set(step(text)[1])
    elif names(text) == {'pos_head'}:
        assert losses_of_heads(text) <= set(step(f'{FIRST}\nmodel.update(\n{text})')[1])
    elif names(text) == {'custom_hooks', 'default_hooks'}:
        runner, _ = step(f'{FIRST}\n{text}')
        hooks = {type(hook).__name__ for hook in runner.hooks}
        assert hooks >= {
            'EpochSeedHook',
            'NonFiniteLossHook',
            'StopSignalHook',
            'AtomicCheckpointHook',
        }
    elif 'import timm' in text:
        # tests/test_plain_torch.py runs it.
        assert (ROOT / 'examples/timm_vit.py').read_text('utf-8').endswith(f'"""\n\n{text}')
    elif names(text) == {'default_hooks'}:
        runner, _ = step(f'{FIRST}\n{text}')
        named = re.findall(r"'poslabel_mm\.(\w+)'", text)
        assert named and {type(hook).__name__ for hook in runner.hooks} >= set(named)
    elif names(text) == {'visualizer'}:
        # One line or another; each backend takes what it is given.
        for node in ast.parse(text).body:
            line = ast.get_source_segment(text, node)
            Path('my_config.py').write_text(f'{FIRST}\n{line}')
            local, other = Config.fromfile('my_config.py').visualizer.vis_backends
            assert local.type == 'LocalVisBackend'
            backend = VISBACKENDS.get(other.pop('type'))
            inspect.signature(backend).bind(save_dir='vis_data', **other)
    elif 'class PositionalLabelSimCLR' in text:
        exec(text, {'__name__': __name__})
        try:
            assert 'loss_apl' in step(SIMCLR)[1]
        finally:
            del MODELS.module_dict['PositionalLabelSimCLR']
    else:
        pytest.fail(f'no test knows how to run this snippet:\n{text}')


# ------------------------------------------------------------------ commands


# Says what it was told. A script that starts Python is run.
PROGRAM = r"""#!/bin/sh
case "$(basename "$0") $1" in
    bash\ */dist_*.sh | bash\ */slurm_*.sh) exec /bin/bash "$@";;
    sbatch\ *)
        for word; do
            case "$word" in --wrap=*) exec /bin/bash -euc "${word#--wrap=}";; esac
        done;;
    python\ -c) echo "$STOCK_PACKAGE";;
esac
{ printf '%s\n' "$(basename "$0")" "$@"; echo ----; } >> "$TOLD"
"""
# A process of a launcher finds these set.
LAUNCHERS_SET = ('LOCAL_RANK', *SET['pytorch'], *SET['slurm'])
PROGRAMS = 'python', 'poslabel', 'bash', 'pip', 'apt-get', 'tar', 'srun', 'sbatch'


@pytest.fixture(scope='module')
def desk(images, tmp_path_factory):
    """A folder with this checkout's files, `my_config.py`, images and the programs."""
    folder = tmp_path_factory.mktemp('desk')
    for path in ROOT.iterdir():
        if path.name not in ('data', 'work_dirs') and not path.name.startswith('.'):
            (folder / path.name).symlink_to(path)
    (folder / 'data').symlink_to(images / 'data')
    (folder / '.venv/bin').mkdir(parents=True)
    (folder / '.venv/bin/activate').touch()
    (folder / 'my_config.py').write_text(FIRST)
    (folder / 'my_apl.py').write_text("_base_ = 'poslabel_mm::vit-tiny_apl_digits.py'")
    (manifest,) = [snippet.text for snippet in ALL if snippet.language == 'yaml']
    (folder / 'my_study.yml').write_text(manifest)
    programs = folder / 'programs'
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    return folder


@pytest.mark.parametrize('snippet', COMMANDS, ids=str)
def test_command(snippet, desk, tmp_path, monkeypatch):
    told = tmp_path / 'told'
    told.touch()
    monkeypatch.chdir(desk)
    # Without the user's own: a program that has no stand-in is not found.
    path = f'{desk / "programs"}{os.pathsep}{minimal_path(tmp_path)}'
    done = subprocess.run(
        ['/bin/bash', '-euc', snippet.text],
        capture_output=True,
        text=True,
        env=dict(PATH=path, TOLD=str(told), STOCK_PACKAGE=mmpretrain.__path__[0]),
    )
    assert done.returncode == 0, done.stderr
    calls = [call.splitlines() for call in told.read_text().split('----\n') if call]
    assert calls
    for call in dict.fromkeys(map(tuple, calls)):
        check(*call)


def minimal_path(tmp_path) -> Path:
    """What the scripts of tools/ call, and nothing else."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in 'sh', 'env', 'dirname', 'basename':
        target = next(
            path for path in (Path('/usr/bin', name), Path('/bin', name)) if path.exists()
        )
        (folder / name).symlink_to(target)
    return folder


def check(program: str, *arguments: str) -> None:
    """Would the program do what it is told?"""
    if program == 'srun':
        check(*(word for word in arguments[arguments.index('python') :] if word != '-u'))
    elif program == 'python':
        check_python(*arguments)
    elif program == 'poslabel':
        check_subcommand(*arguments)
    elif program == 'bash':
        assert Path(arguments[0]).is_file(), arguments[0]
        if arguments[0].endswith('run_tests.sh'):
            check_selection(*arguments[1:])
    elif program == 'pip':
        assert arguments[0] == 'install'
        *options, package = arguments[1:]
        if options != ['-e']:
            # MMCV's operators, as the set-up script builds them.
            script = (ROOT / 'tools/setup_env.sh').read_text('utf-8').replace('\\\n        ', '')
            assert f'{" ".join(options)} {package.partition("==")[0]} ||' in script
            assert package in (ROOT / 'requirements/constraints-onedl.txt').read_text('utf-8')
            return
        setup = (ROOT / 'setup.py').read_text('utf-8')
        known = re.findall(r"^        '(\w+)': \[", setup, re.M) + ['onedl', 'openmmlab']
        assert set(re.findall(r'\w+', package)) <= set(known)
    else:
        # Of other packages, and their own to keep.
        assert (program, arguments[0]) in {('apt-get', 'install'), ('tar', 'xf')}


def check_selection(*arguments: str) -> None:
    """Are there such tests?"""
    files = [Path(word) for word in arguments if word.startswith('tests/')]
    text = ''.join(path.name + path.read_text('utf-8') for path in files)
    if '-k' in arguments:
        words = re.findall(r'\w+', arguments[arguments.index('-k') + 1])
        tests = ' '.join(re.findall(r'test_\w+', text))
        assert [word for word in words if word != 'or' and word not in tests] == []
    if '-m' in arguments and files:
        assert 'mark.slow' in text


# The selections of docs/reliability.md, which stand beside the command that takes them.
SELECTIONS = re.findall(
    r'`((?:-m slow )?tests/[^`]+)`', (ROOT / 'docs/reliability.md').read_text('utf-8')
)


@pytest.mark.parametrize('selection', SELECTIONS)
def test_selection(selection, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_selection(*shlex.split(selection))


def check_python(*arguments: str) -> None:
    if arguments[0] == '-c':
        compile(arguments[1], '-c', 'exec')
    elif arguments[0] == '-m':
        assert arguments[1] == 'poslabel_mm'
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', list(arguments[1:]))
            if arguments[2:3] == ('convert',):
                converter(None, *arguments[3:])
            else:
                __main__.main()
    else:
        path = Path(arguments[0])
        assert path.is_file(), path
        rule = RULES.get(path.name)
        assert rule is not None, f'no test knows what {path} takes'
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, 'argv', [str(word) for word in arguments])
            patch.setattr(sys, 'path', [str(ROOT / 'tools'), *sys.path])
            for name in LAUNCHERS_SET:
                patch.setenv(name, '29500' if name == 'MASTER_PORT' else '0')
            rule(path, *arguments[1:])


def check_subcommand(name: str, *arguments: str) -> None:
    """The command `poslabel`: what is light is run, the others' scripts have rules."""
    assert name in cli.SUBCOMMANDS
    scripts = {
        'train': 'train',
        'test': 'test',
        'tool': 'mmpretrain_tool',
        'reproduce': 'reproduce',
        'quickstart': 'quickstart',
        'pretrain-finetune': 'pretrain_finetune',
    }
    if name in scripts:
        check_python(f'tools/{scripts[name]}.py', *arguments)
    elif name == 'probe':
        args = probe_module.parse_args(arguments, 'poslabel probe')
        assert Path(find_config(args.config)).stem == Path(args.checkpoint).parent.name
    elif name == 'convert':
        check_python('-m', 'poslabel_mm', name, *arguments)
    elif name == 'look':
        args = look_module.parse_args(arguments, name)
        for config in filter(None, (args.config, args.against_config)):
            Config.fromfile(find_config(config))
    elif name == 'export':
        args = export_command.parse_args(arguments, name)
        assert Path(find_config(args.config)).stem == Path(args.checkpoint).parent.name
        assert args.out.endswith(export_command.FORMATS[args.to].endings or args.out)
    elif name == 'import':
        find_config(import_command.parse_args(arguments, name).to)
    elif name == 'plot':
        plot_module.parse_args(arguments, name)
    elif name != 'doctor':
        assert cli.main([name, *arguments]) == 0


@functools.cache
def tool(path: Path):
    spec = importlib.util.spec_from_file_location(f'documented_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stock(path: Path, *_: str) -> None:
    """`tools/train.py` and `tools/test.py`: MMPretrain's options and ours."""
    module = tool(Path(tool_path(path.name)))
    args = checked_arguments(module.parse_args)()
    if Path(args.config).parent.name in ('segmentation', 'detection'):
        # tests/under_mmseg.py and under_mmdet.py read it, where the packages are installed.
        assert Path(args.config).is_file()
        return
    cfg = Config.fromfile(args.config)
    make_room_for_backends(cfg, args.cfg_options)
    check_options(cfg, args)
    cfg = module.merge_args(cfg, args)
    if path.name == 'train.py':
        check_auto_scale_lr(cfg)
        check_num_classes(cfg, ('train_dataloader',))
    else:
        assert args.checkpoint.startswith(f'work_dirs/{Path(args.config).stem}/epoch_')


def torchrun(path: Path, processes: str, *command: str) -> None:
    assert int(processes) > 0
    check_python(*command)


def quickstart(path: Path, *words: str) -> None:
    quickstart_module.parse_args(words, path.name)


def chain(path: Path, *words: str) -> None:
    args = chain_module.parse_args(words, path.name)
    for name, options in (
        (args.pretraining, args.pretraining_options),
        (args.finetuning, args.finetuning_options),
    ):
        path = ROOT / name if (ROOT / name).is_file() else config_path(Path(name).name)
        cfg = Config.fromfile(path, import_custom_modules=False)
        cfg.merge_from_dict(dict(option.split('=') for option in options))


def reproduce(path: Path, *words: str) -> None:
    args = reproduce_module.parse_args(list(words), path.name)
    select(load_paper(args.manifest), args.table, args.row, args.figure)


def benchmark(path: Path, *_: str) -> None:
    args = parse_args(sys.argv[1:], path.name)
    if args.command == 'step':
        find_config(args.baseline)
        for name in args.configs:
            read_config(name, args.cfg_options)
    for file in args.csv if args.command == 'table' else []:
        assert Path(file).is_file()


def converter(path: Path | None, *arguments: str) -> None:
    """Its source is not here, and it says so: the options were understood.

    Args:
        path (Path, optional): The script of a dataset. Without one the dataset comes first.
    """
    names = [path.stem.replace('_', '-')] if path else []
    with pytest.raises(UserError) as caught:
        convert([*names, *arguments])
    assert '--help lists the options' not in str(caught.value)
    assert 'there is no converter' not in str(caught.value)


def test_a_wrong_option_of_a_converter_is_found(monkeypatch):
    monkeypatch.chdir(ROOT)
    for name in 'imagenet', 'mini_imagenet', 'caltech256':
        with pytest.raises(AssertionError):
            converter(Path(f'{name}.py'), 'data/nowhere', '--wrong')
    with pytest.raises(AssertionError):
        converter(None, 'folders', 'photographs')


def other(path: Path, name: str, *arguments: str) -> None:
    module = tool(Path(tool_path(name)))
    sys.argv[:] = [name, *(shipped_config(word) or word for word in arguments)]
    assert Path(module.parse_args().config).is_file()


def as_it_is(path: Path, *arguments: str) -> None:
    assert not arguments


RULES = {
    'train.py': stock,
    'test.py': stock,
    'torchrun.py': torchrun,
    'pretrain_finetune.py': chain,
    'reproduce.py': reproduce,
    'benchmark.py': benchmark,
    'quickstart.py': quickstart,
    'mmpretrain_tool.py': other,
    'test_backbones.py': as_it_is,
    'timm_vit.py': as_it_is,
    'method.py': as_it_is,
    'objectives.py': as_it_is,
    'results.py': as_it_is,
    'imagenet.py': converter,
    'mini_imagenet.py': converter,
    'caltech256.py': converter,
}


@pytest.mark.parametrize('name', heads.__all__)
def test_docstrings_of_heads_list_what_they_require(name):
    """And claim no default that the signature does not have."""
    head = getattr(heads, name)
    for cls in head.__mro__[: head.__mro__.index(BaseHead) + 1]:
        if cls is not head and '__init__' not in vars(cls):
            continue
        section = inspect.getdoc(cls).partition('\nArgs:\n')[2].partition('\n\n')[0]
        options = re.findall(r'^ {4}(\w+) \(.*\): ((?:.*\n {8})*.*)', section, flags=re.M)
        parameters = inspect.signature(cls).parameters
        required = {key for key, value in parameters.items() if value.default is value.empty}
        described = dict(options)
        assert required <= set(described) <= set(parameters), cls
        for key in required:
            assert 'Defaults to' not in described[key], (cls, key)
