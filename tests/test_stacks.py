"""Both MM stacks train, resume, test and inherit: see stack_check.py."""

import os
import subprocess
from pathlib import Path

import pytest
import stack_check

from poslabel_mm.stack import compat

ROOT = Path(__file__).resolve().parents[1]


def test_the_stack_in_use(tmp_path, capfd):
    # A process of its own would import the stack: test_launch.py starts the tools so.
    stack = compat.check_stack(compat.installed_versions())
    stack_check.check(stack, tmp_path, first=stack_check.fork_tool)
    assert len(capfd.readouterr().out.splitlines()) == 4


@pytest.mark.slow
def test_the_openmmlab_stack_in_an_environment_of_its_own(tmp_path):
    # What a shell started inside another environment would pass on.
    outside = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    made = subprocess.run(
        ['bash', ROOT / 'tools' / 'setup_env.sh', 'openmmlab'],
        env=outside,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    python = made.stdout.splitlines()[-1]
    done = subprocess.run(
        [python, ROOT / 'tests' / 'stack_check.py', 'openmmlab', tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 4, done.stdout
