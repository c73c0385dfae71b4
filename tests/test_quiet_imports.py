"""What importing poslabel_mm, and then the MM stack, loads and prints."""

import subprocess
import sys
import warnings

from poslabel_mm.stack.quiet_imports import (
    MISSING_OPERATOR,
    ONEDL_LINE,
    ignore_missing_operator,
    without_onedl_line,
)


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True)


def test_importing_poslabel_mm_is_silent_and_light():
    heavy = "sorted({'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv'} & set(sys.modules))"
    done = run('-W', 'error', '-c', f'import sys, poslabel_mm; assert not {heavy}, {heavy}')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_importing_the_models_prints_nothing():
    done = run('-c', 'import poslabel_mm.models, mmpretrain.datasets')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_only_these_two_messages_are_dropped(capsys):
    with without_onedl_line():
        print('before')
        print(ONEDL_LINE, end='')
        print('after')
    assert capsys.readouterr().out == 'before\nafter\n'
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        ignore_missing_operator()
        warnings.warn(f'{MISSING_OPERATOR}Attention`` from', stacklevel=1)
        warnings.warn('Fail to import another', stacklevel=1)
    assert [str(warning.message) for warning in caught] == ['Fail to import another']
