"""Segmentation under MMSegmentation, in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# With what it asks for and the stack has not.
PACKAGES = ['onedl-mmsegmentation==1.4.2', 'ftfy', 'prettytable', 'regex', 'wcwidth']

pytestmark = pytest.mark.slow


@pytest.fixture
def python(tmp_path):
    """This environment's packages, with MMSegmentation over them."""
    try:
        metadata.version('onedl-mmpretrain')
    except metadata.PackageNotFoundError:
        pytest.skip('onedl-mmsegmentation needs the onedl stack')
    folder = tmp_path / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    (site / 'base.pth').write_text(sysconfig.get_paths()['purelib'])
    python = folder / 'bin' / 'python'
    subprocess.run(
        [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps', *PACKAGES],
        check=True,
    )
    return python


def test_under_mmsegmentation(python, tmp_path):
    """All of tests/under_mmseg.py, in one process."""
    done = subprocess.run(
        [python, '-m', 'pytest', '-q', '-p', 'no:xdist', '-p', 'no:cacheprovider', '--tb=short']
        + [f'--basetemp={tmp_path / "temp"}', ROOT / 'tests/under_mmseg.py'],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
