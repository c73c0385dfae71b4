"""Segmentation and detection under other MM projects, each in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# With what they import and the stack has not.
PROJECTS = {
    'mmseg': ['onedl-mmsegmentation==1.4.2', 'ftfy', 'prettytable', 'regex', 'wcwidth'],
    'mmdet': ['onedl-mmdetection==3.5.1', 'imageio', 'imaug', 'lazy-loader', 'pycocotools']
    + ['scikit-image', 'shapely', 'six', 'terminaltables'],
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('project', PROJECTS)
def test_under(project, tmp_path):
    """All of tests/under_PROJECT.py, in one process: this environment's packages, and over them
    the project's."""
    try:
        metadata.version('onedl-mmpretrain')
    except metadata.PackageNotFoundError:
        pytest.skip(f'{PROJECTS[project][0]} needs the onedl stack')
    folder = tmp_path / 'env'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder], check=True)
    (site,) = folder.glob('lib/python*/site-packages')
    (site / 'base.pth').write_text(sysconfig.get_paths()['purelib'])
    python = folder / 'bin' / 'python'
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-deps']
    pins = ROOT / f'requirements/constraints-{project}.txt'
    constraints = ['-c', pins] if pins.exists() and sys.version_info >= (3, 11) else []
    subprocess.run([*pip, *constraints, *PROJECTS[project]], check=True)
    done = subprocess.run(
        [python, '-m', 'pytest', '-q', '-p', 'no:xdist', '-p', 'no:cacheprovider', '--tb=short']
        + [f'--basetemp={tmp_path / "temp"}', ROOT / f'tests/under_{project}.py'],
        cwd=ROOT,
        env=os.environ | dict(PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES=''),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
