"""The command `poslabel`: what it prints, what it imports, what it leaves behind."""

import ast
import importlib.metadata
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from poslabel_mm import UserError, cli, cli_configs, config_path, doctor
from poslabel_mm.launch import stock_arguments
from poslabel_mm.stack import compat
from poslabel_mm.typed_command import python_as_typed

ROOT = Path(__file__).resolve().parents[1]


def call(capsys, *argv):
    """Exit status, standard output and standard error of the command in this process."""
    status = cli.main(list(argv))
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(autouse=True)
def as_console_script(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/poslabel'])
    monkeypatch.setenv('POSLABEL_MM_COMMAND', '')


def test_help_names_every_command(capsys):
    for argv in ([], ['--help']):
        try:
            status = cli.main(argv)
        except SystemExit as left:
            status = left.code
        out = capsys.readouterr().out
        assert status == 0
        assert all(f'  {name} ' in out for name in cli.SUBCOMMANDS)


def test_every_command_is_there():
    """Without importing its module, which for some is the whole stack."""
    for subcommand in cli.SUBCOMMANDS.values():
        module, _, function = subcommand.function.partition(':')
        path = ROOT / (module.replace('.', '/') + '.py')
        functions = {
            node.name: [argument.arg for argument in node.args.args]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef)
        }
        assert functions[function] == ['argv', 'prog'], subcommand


MISSING = 'the following arguments are required'


@pytest.mark.parametrize(
    'command, words, line',
    [
        ('convert imagenet', [], f'{MISSING}: --check'),
        ('doctor', ['--what'], 'unrecognized arguments: --what'),
        ('look', ['--what', 'nothing'], "argument --what: invalid choice: 'nothing'"),
        ('plot', [], f'{MISSING}: WORK_DIRS, --out'),
        (
            'probe',
            ['a.py', 'b.pth', '--probes', 'all'],
            "argument --probes: invalid choice: 'all'",
        ),
        ('reproduce', ['--seeds', 'a'], 'argument --seeds: '),
        ('benchmark.py', [], f'{MISSING}: command'),
        ('benchmark.py step', ['a.py'], f'{MISSING}: configs'),
        (
            'benchmark.py step',
            ['a.py', 'b.py', '--rounds', '0'],
            '--rounds must be at least 1',
        ),
        ('benchmark.py step', ['a.py', 'b.py', '--x'], 'unrecognized arguments: --x'),
        ('benchmark.py pairs', ['--forms', 'x'], 'there is no form x: choose from '),
    ],
)
def test_wrong_arguments_are_one_line(monkeypatch, capsys, command, words, line):
    first, *rest = command.split()
    if first in cli.SUBCOMMANDS:
        status, out, err = call(capsys, first, *rest, *words)
        command = f'poslabel {command}'
    else:
        monkeypatch.setattr(sys, 'argv', [f'tools/{first}', *rest, *words])
        status = cli.run_script('poslabel_mm.benchmark.command:main')
        out, err = capsys.readouterr()
    assert (status, out) == (1, '')
    assert err.startswith(f'error: {line}')
    assert err.endswith(f'; {command} --help lists the options\n') and err.count('\n') == 1


def test_a_mistyped_command_is_one_line(capsys):
    status, out, err = call(capsys, 'trian')
    assert (status, out) == (1, '')
    assert err == "error: there is no command 'trian': did you mean train?\n"
    assert 'choose from quickstart, train' in call(capsys, 'xyz')[2]


@pytest.mark.parametrize(
    'typed, expected',
    [
        (['/usr/bin/poslabel', 'config'], 'poslabel config'),
        (['/x/poslabel_mm/__main__.py', 'config'], 'python -m poslabel_mm config'),
        (['tools/config.py'], 'config.py'),
    ],
)
def test_usage_is_what_was_typed(capsys, monkeypatch, typed, expected):
    monkeypatch.setattr(sys, 'argv', [*typed, '--help'])
    with pytest.raises(SystemExit):
        cli.main(['config', '--help'])
    assert capsys.readouterr().out.startswith(f'usage: {expected} [-h]')


@pytest.fixture
def called(monkeypatch):
    """Subcommands are not run: their arguments and the line to resume with are recorded."""
    calls = []

    def record(function, arguments):
        calls.append((sys.argv[1:], os.environ['POSLABEL_MM_COMMAND']))
        return 0

    monkeypatch.setattr(cli, '_call', record)
    return calls


@pytest.mark.parametrize('found', ['/usr/bin/poslabel', None])
def test_python_code_may_call_the_command_with_any_arguments(monkeypatch, called, found):
    monkeypatch.setattr(
        shutil, 'which', lambda name, path=None: found if name == 'poslabel' else None
    )
    monkeypatch.setattr(sys, 'argv', ['my_study.py', '--fast'])
    monkeypatch.setenv('POSLABEL_MM_COMMAND', 'bash elsewhere.sh')
    monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', 'bash elsewhere.sh --resume')
    command = 'poslabel' if found else f'{python_as_typed()} -m poslabel_mm'
    assert cli.main(['train', 'a b.py', '--amp']) == cli.main(['test', 'c.py', 'd.pth']) == 0
    assert called == [
        (['a b.py', '--amp'], f"{command} train 'a b.py' --amp"),
        (['c.py', 'd.pth'], f'{command} test c.py d.pth'),
    ]
    # Nothing of it stays.
    assert sys.argv == ['my_study.py', '--fast']
    assert os.environ['POSLABEL_MM_COMMAND'] == 'bash elsewhere.sh'
    assert os.environ['POSLABEL_MM_RESUME_COMMAND'] == 'bash elsewhere.sh --resume'


def test_the_console_script_replaces_what_another_command_left(monkeypatch, called):
    monkeypatch.setattr(sys, 'argv', ['/usr/bin/poslabel', 'train', 'a.py'])
    monkeypatch.setattr(shutil, 'which', lambda name: f'/usr/bin/{name}')
    monkeypatch.setenv('POSLABEL_MM_COMMAND', 'poslabel reproduce --all')
    cli.main()
    assert called == [(['a.py'], 'poslabel train a.py')]


def test_a_script_keeps_what_its_shell_script_typed(monkeypatch, called):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a.py'])
    monkeypatch.setenv('POSLABEL_MM_COMMAND', 'tools/dist_train.sh a.py 8')
    cli.main(['train', 'a.py'])
    assert called == [(['a.py'], 'tools/dist_train.sh a.py 8')]


def test_mmpretrains_tools_get_the_arguments_of_the_call(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['my_study.py', 'other.py'])
    with pytest.raises(SystemExit):
        cli.main(['train', 'nowhere.py'])
    assert 'error: config nowhere.py does not exist' in capsys.readouterr().err


def test_help_of_train_and_test_is_mmpretrains_own(monkeypatch, capsys):
    pages = []
    for loaded in False, True:
        for name in 'train', 'test':
            words = [name, 'a.py', '--cfg-options', 'a=1', '--help']
            monkeypatch.setattr(sys, 'argv', ['/usr/bin/poslabel', *words])
            if loaded:  # as where the help needs the tool's imports
                monkeypatch.setattr(stock_arguments, '_print_help', lambda *arguments: None)
            with pytest.raises(SystemExit) as left:
                cli.main()
            assert left.value.code == 0
            pages.append(capsys.readouterr().out)
    assert pages[:2] == pages[2:]
    assert all('--cfg-options' in page and '--data DIR' in page for page in pages)


def test_light_commands_import_neither_torch_nor_the_stack():
    script = (
        'import sys\n'
        'from poslabel_mm import cli\n'
        'import contextlib, io\n'
        'with contextlib.redirect_stdout(io.StringIO()):\n'
        "    for argv in (['list'], ['config', 'vit-b_apl_in1k'], []):\n"
        '        assert cli.main(argv) == 0\n'
        '    for name in cli.SUBCOMMANDS:\n'
        '        try:\n'
        "            assert cli.main([name, '--help']) == 0\n"
        '        except SystemExit as left:\n'
        '            assert left.code == 0\n'
        'from poslabel_mm.benchmark import command\n'
        'with contextlib.redirect_stdout(io.StringIO()):\n'
        '    try:\n'
        "        command.main(['step', '--help'])\n"
        '    except SystemExit as left:\n'
        '        assert left.code == 0\n'
        "heavy = {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmpretrain', 'rich'}\n"
        'print(sorted(heavy & set(sys.modules)))\n'
        'from poslabel_mm import doctor\n'
        'next(doctor.find_stack())\n'
        'print(sorted(heavy & set(sys.modules)))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ['[]', '[]'] and done.stderr == ''


def test_list_shows_names_and_titles(capsys):
    status, out, _ = call(capsys, 'list', 'vit-b_apl_*')
    assert status == 0
    lines = out.splitlines()
    assert all(line.startswith('vit-b_apl_') for line in lines)
    assert 'ViT-B/16 with absolute positional labels' in next(
        line for line in lines if line.startswith('vit-b_apl_in1k.py')
    )
    assert len(call(capsys, 'list')[1].splitlines()) > 60
    assert 'no config is named vit-z' in call(capsys, 'list', 'vit-z')[2]


def test_config_prints_the_path(capsys):
    assert call(capsys, 'config', 'vit-b_apl_in1k') == (
        0,
        config_path('vit-b_apl_in1k.py') + '\n',
        '',
    )
    status, _, err = call(capsys, 'config', 'vit-b_alp_in1k')
    assert status == 1 and 'did you mean vit-b_apl_in1k.py' in err


@pytest.mark.parametrize(
    'name', ['vit-b_apl_in1k.py', 'mae-vit-tiny_apl_digits.py', 'vit-b_in1k.py']
)
def test_a_copied_config_is_the_same(capsys, tmp_path, name):
    copy = tmp_path / 'new' / name
    assert call(capsys, 'config', name, '--copy', str(copy.parent)) == (0, f'{copy}\n', '')
    assert Config.fromfile(copy).to_dict() == Config.fromfile(config_path(name)).to_dict()
    status, _, err = call(capsys, 'config', name, '--copy', str(copy.parent))
    assert status == 1 and err.startswith(f'error: {copy} exists: ')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='file/.* cannot be written'):
        cli_configs.copy_config(Path(config_path(name)), tmp_path / 'file')


@pytest.mark.parametrize(
    'words, status', [('list', 141), ('config vit-b_in1k', 141), ('list --help', 0)]
)
def test_output_into_a_closed_pipe_has_no_traceback(words, status):
    """The reader is gone before the first line, and Python keeps the lines to the end."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, '-m', 'poslabel_mm', *words.split()],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != 'PYTHONUNBUFFERED'},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, '')


def test_an_error_into_a_closed_pipe_is_kept():
    """What was printed before it is lost, the error and its status are not."""
    script = (
        'from poslabel_mm import UserError, cli\n'
        'def call():\n'
        "    print('some text')\n"
        "    raise UserError('no  such thing\\n   here')\n"
        'raise SystemExit(cli._guarded(call))\n'
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != 'PYTHONUNBUFFERED'},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, 'error: no  such thing here\n')


@pytest.mark.parametrize('name', ['list', 'config', 'doctor', 'convert', 'reproduce', None])
def test_a_wrong_option_is_one_line(capsys, name):
    words = [name] if name else []
    status, out, err = call(capsys, *words, '--wrong')
    assert (status, out) == (1, '') and len(err.splitlines()) == 1
    assert err.startswith('error: ')
    if name not in ('config', 'convert', 'reproduce'):
        assert 'unrecognized arguments: --wrong' in err and '--help lists the options' in err


@pytest.mark.parametrize(
    'error, line',
    [
        (compat.StackError('two stacks: pip install one'), 'two stacks: pip install one'),
        (ModuleNotFoundError('No module', name='PIL'), 'pillow is missing: pip install pillow'),
        (ImportError('cannot import name'), None),
        (ImportError('a fault of the code', name='poslabel_mm.models'), None),
        (ModuleNotFoundError('No module', name='some_module'), None),
    ],
)
def test_only_what_is_not_installed_is_one_line(capsys, monkeypatch, error, line):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(cli, '_call', fail)
    if line is None:
        with pytest.raises(ImportError):
            call(capsys, 'list')
    else:
        assert call(capsys, 'list') == (1, '', f'error: {line}\n')


def test_an_error_gives_the_signals_back(capsys):
    before = signal.getsignal(signal.SIGINT)
    call(capsys, 'nothing')
    assert signal.getsignal(signal.SIGINT) is before


# ------------------------------------------------------------------- doctor


@pytest.fixture
def environment(monkeypatch):
    """Distributions as if they were installed."""
    versions = {}

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, 'version', version)
    return versions


def errors(check):
    return [finding for finding in check() if finding.is_error]


def test_doctor_without_a_stack(environment):
    (finding,) = errors(doctor.find_stack)
    assert finding.text == 'poslabel_mm needs MMPretrain and found none'
    assert finding.mend.startswith("pip install 'onedl-mmpretrain>=")


def test_doctor_with_both_stacks(environment):
    environment.update({'onedl-mmengine': '0.10.12', 'mmengine': '0.10.7'})
    (finding,) = errors(doctor.find_stack)
    assert 'two MM stacks are installed over each other' in finding.text
    assert finding.mend.startswith('pip uninstall -y ') and "'onedl-mmpretrain" in finding.mend


def test_doctor_with_a_version_out_of_range(environment):
    environment.update({'onedl-mmpretrain': '1.2.0', 'onedl-mmengine': '0.10.12'})
    (finding,) = errors(doctor.find_stack)
    assert 'onedl-mmpretrain 1.2.0 is not' in finding.text and 'pip install' in finding.mend


def test_doctor_of_this_environment(capsys):
    status, out, err = call(capsys, 'doctor')
    assert status == 0 and err == ''
    lines = out.splitlines()
    assert lines[0].startswith('poslabel_mm ') and sys.executable in lines[0]
    assert any(line.startswith('ok     MM stack: ') for line in lines)
    assert not any(line.startswith('error') for line in lines)
    assert any('can be imported' in line for line in lines)


@pytest.mark.parametrize(
    'line, expected',
    [("cuda: Optional[str] = '13.0'", '13.0'), ("cuda = '12.1'", '12.1'), ('cuda = None', '')],
)
def test_the_cuda_version_is_read_without_an_import(tmp_path, monkeypatch, line, expected):
    package = tmp_path / 'somevision'
    package.mkdir()
    (package / '__init__.py').write_text('raise RuntimeError')
    (package / 'version.py').write_text(f"__version__ = '0.1'\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._cuda_of('somevision') == expected


@pytest.mark.parametrize(
    'installed, mends',
    [
        ({}, ['pip install torch', 'pip install torchvision']),
        ({'torch': '2.13.0'}, ['pip install torchvision torch==2.13.0']),
        ({'torchvision': '0.28.0'}, ['pip install torch torchvision==0.28.0']),
        (
            {'torch': '2.13.0+cpu'},
            ['pip install torchvision torch==2.13.0 --index-url ' + doctor.CPU_INDEX],
        ),
    ],
)
def test_doctor_without_torch_keeps_the_rest(environment, installed, mends):
    environment.update(installed)
    assert sorted(finding.mend for finding in errors(doctor.find_torch)) == mends


@pytest.mark.parametrize(
    'version, mend',
    [
        ('2.13.0', 'pip install --force-reinstall --no-deps torch==2.13.0'),
        (
            '2.13.0+cpu',
            'pip install --force-reinstall --no-deps torch==2.13.0 --index-url '
            + doctor.CPU_INDEX,
        ),
        (None, 'pip install torch'),
    ],
)
def test_doctor_of_a_torch_that_cannot_be_imported(environment, monkeypatch, version, mend):
    environment.update({'torch': version} if version else {})
    monkeypatch.setitem(sys.modules, 'torch', None)
    (finding,) = errors(doctor.find_devices)
    assert finding.mend == mend


def test_doctor_names_a_torchvision_of_another_build(environment, monkeypatch):
    environment.update(torch='2.13.0+cpu', torchvision='0.28.0')
    monkeypatch.setattr(doctor, '_cuda_of', {'torch': '', 'torchvision': '13.0'}.get)
    findings = list(doctor.find_torch())
    assert 'was built for CUDA' in findings[1].text
    assert findings[1].mend == (
        'pip install --force-reinstall --no-deps torchvision==0.28.0 '
        '--index-url https://download.pytorch.org/whl/cpu'
    )
    assert not findings[1].is_error  # poslabel_mm does without its operators


def test_doctor_finds_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs('data/imagenet')
    findings = list(doctor.find_data())
    assert str(findings[0]) == 'ok     ImageNet-1K in data/imagenet'
    assert all(re.fullmatch('[A-Z].*`.+`.*[.]', finding.mend) for finding in findings[1:])
    assert not any('tools/' in finding.mend or 'first' in finding.mend for finding in findings)


@pytest.mark.parametrize(
    'size, line',
    [
        (
            64 << 20,
            'note   shared memory: 64 MiB in /dev/shm, little for the workers of data loaders',
        ),
        (1 << 30, 'ok     shared memory: 1024 MiB in /dev/shm'),
        (None, None),
    ],
)
def test_doctor_of_dockers_shared_memory(monkeypatch, size, line):
    monkeypatch.setattr(doctor, 'shared_memory', lambda: size)
    found = [str(finding).partition('\n') for finding in doctor.find_shared_memory()]
    assert [first for first, _, _ in found] == ([line] if line else [])
    assert all(('--shm-size=8g' in mend) is (size < 1 << 30) for _, _, mend in found)


@pytest.mark.parametrize('is_hidden', [False, True])
def test_doctor_of_a_gpu_that_torch_does_not_see(monkeypatch, is_hidden):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setattr(torch.version, 'cuda', '12.8')
    monkeypatch.setattr(doctor.osp, 'exists', lambda path: True)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if is_hidden:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    finding = list(doctor.find_devices())[1]
    assert 'built for CUDA 12.8, sees no GPU' in finding.text
    if is_hidden:
        assert finding.mend == 'unset CUDA_VISIBLE_DEVICES'
    else:
        assert finding.mend.startswith('Install a torch') and finding.mend.endswith('.')


def test_doctor_of_a_stack_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    (finding,) = errors(doctor.find_imports)
    pins = [f'{k}=={v}' for k, v in compat.installed_versions().items() if 'mm' in k]
    assert finding.mend == 'pip install --force-reinstall --no-deps ' + ' '.join(pins)
    # What the stack requires and does not find is installed beside it.
    error = ModuleNotFoundError('No module', name='einops.layers')
    assert doctor._stack_again(error) == 'pip install ' + ' '.join(pins)


# ------------------------------------------------------------ light imports


def test_the_stack_is_checked_where_it_is_imported():
    script = (
        'import importlib.metadata, sys\n'
        'def version(name):\n'
        '    raise importlib.metadata.PackageNotFoundError(name)\n'
        'importlib.metadata.version = version\n'
        'import poslabel_mm\n'
        'try:\n'
        '    import poslabel_mm.registry\n'
        'except ImportError as error:\n'
        '    print(error)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith('poslabel_mm needs MMPretrain and found none: pip install ')


def built_type(folder):
    """The type of the model of a config that inherits by name, once the hub has listed it."""
    from mmengine.registry import MODELS, init_default_scope
    from mmpretrain import list_models

    assert 'vit-b_apl_in1k' in list_models('*apl*')
    path = Path(folder, 'a.py')
    path.write_text("_base_ = 'poslabel_mm::vit-tiny_apl_digits.py'")
    init_default_scope('mmpretrain')
    return type(MODELS.build(Config.fromfile(path).model)).__name__


def test_mmpretrain_may_be_imported_after_poslabel_mm(tmp_path):
    """As ``conftest.py`` does."""
    assert built_type(tmp_path) == 'PositionalLabelClassifier'


def test_mmpretrain_may_be_imported_before_poslabel_mm(tmp_path):
    script = (
        'import mmpretrain, poslabel_mm\n'
        'from pathlib import Path\n'
        'from mmengine.config import Config\n'
        f'{inspect.getsource(built_type)}\n'
        f'print(built_type({str(tmp_path)!r}))\n'
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == 'PositionalLabelClassifier', done.stderr


def test_the_stack_of_this_environment_is_in_range():
    compat.check_installed()
