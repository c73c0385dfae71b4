"""What the set-up script says where it cannot go on; it installs nothing here."""

import os
import select
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / 'tools' / 'setup_env.sh'


def _run(*args, path):
    return subprocess.run(
        [shutil.which('bash'), SCRIPT, *map(str, args)],
        env={'PATH': str(path)},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def programs(tmp_path):
    """A PATH with what any machine has, and no Python."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in 'bash', 'cat', 'cksum', 'dirname', 'ls', 'mkdir', 'rm', 'tee', 'tail', 'grep':
        (folder / name).symlink_to(shutil.which(name))
    return folder


def _add_python(folder, body):
    python = folder / 'python3'
    python.write_text(f'#!{shutil.which("bash")}\n{body}\n')
    python.chmod(0o755)


def _assert_one_line(done, *told):
    assert done.returncode != 0
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    for text in told:
        assert text in done.stderr


def test_unknown_stack(programs):
    _assert_one_line(_run('onedl2', path=programs), "'onedl2'", 'onedl, openmmlab, mmdet or docs')


@pytest.mark.parametrize(
    'script', ['quickstart.sh', 'run_tests.sh', 'build_docs.sh', 'setup_env.sh']
)
def test_as_the_wheel_ships_it(programs, tmp_path, script):
    shutil.copytree(SCRIPT.parent, tmp_path / '.mim' / 'tools')
    done = subprocess.run(
        [shutil.which('bash'), tmp_path / '.mim' / 'tools' / script],
        env={'PATH': str(programs)},
        capture_output=True,
        text=True,
    )
    _assert_one_line(
        done,
        f'{script} sets up an environment for a checkout',
        f'python {tmp_path}/.mim/tools/quickstart.py',
    )
    assert not done.stdout and not list(tmp_path.glob('.mim/.venv*'))


def test_folder_with_something_else_in_it(programs, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'notes.txt').write_text('keep')
    _assert_one_line(
        _run('onedl', tmp_path / 'mine', path=programs),
        f'{tmp_path}/mine is not a virtual environment',
    )
    assert (tmp_path / 'mine' / 'notes.txt').read_text() == 'keep'


def test_no_python(programs, tmp_path):
    _assert_one_line(_run('onedl', tmp_path / 'env', path=programs), 'no Python >= 3.10 on PATH')


def test_python_too_old(programs, tmp_path):
    _add_python(programs, 'exit 1')
    _assert_one_line(_run('onedl', tmp_path / 'env', path=programs), 'no Python >= 3.10 on PATH')


def test_python_without_venv(programs, tmp_path):
    _add_python(programs, 'case $2 in *ensurepip*) exit 1 ;; esac')
    _assert_one_line(
        _run('onedl', tmp_path / 'env', path=programs),
        'python3 has no venv and ensurepip modules',
        'python3-venv',
    )


def test_failed_install_says_where_the_log_is_and_leaves_no_stamp(programs, tmp_path):
    env = tmp_path / 'env'
    (env / 'bin').mkdir(parents=True)
    (env / 'pyvenv.cfg').touch()
    # A pip without network.
    _add_python(
        env / 'bin',
        'case $3 in --version) exit 0 ;; esac\n'
        'echo "ERROR: No matching distribution found for torch"; exit 1',
    )
    (env / 'bin' / 'python3').rename(env / 'bin' / 'python')
    done = _run('onedl', env, path=programs)
    assert done.returncode != 0
    assert done.stdout.splitlines() == ['[2/4] torch and torchvision']
    assert done.stderr.splitlines()[0] == ('ERROR: No matching distribution found for torch')
    assert f'{env}/setup.log' in done.stderr.splitlines()[-1]
    assert not (env / 'poslabel_mm.stamp').exists()


# A Python in which MMCV's operators can be imported once they are built.
BUILDING = """
case "$*" in
  *'mmcv.ops'*) [ -f "${0%/*}/built" ] ;;
  *'--no-binary'*) echo > "${0%/*}/built" ;;
esac
"""


def test_mmdetection_comes_with_operators_built_for_its_torch(programs, tmp_path):
    env = tmp_path / 'env'
    (env / 'bin').mkdir(parents=True)
    (env / 'pyvenv.cfg').touch()
    _add_python(env / 'bin', f'echo "$PATH $@" >> {tmp_path}/calls\n{BUILDING}')
    (env / 'bin' / 'python3').rename(env / 'bin' / 'python')
    done = _run('mmdet', env, path=programs)
    assert done.returncode == 0, done.stderr
    assert [line[:5] for line in done.stdout.splitlines()[:-1]] == [
        f'[{i}/5]' for i in (2, 3, 4, 5)
    ]
    *_, built, checked, _, compiled = (tmp_path / 'calls').read_text().splitlines()
    assert built.startswith(f'{env}/bin:')  # where ninja is
    assert '--no-build-isolation' in built and built.endswith('--no-binary onedl-mmcv onedl-mmcv')
    assert checked.endswith('import poslabel_mm, mmcv.ops')
    assert f'-m compileall -qq -j 0 {env}/lib' in compiled  # pip was told to leave it
    # They are kept when other pins change.
    (env / 'poslabel_mm.stamp').unlink()
    assert '[5/5]' not in _run('mmdet', env, path=programs).stdout


def test_ready_environment_is_left_alone(programs, tmp_path):
    env = tmp_path / 'env'
    (env / 'bin').mkdir(parents=True)
    (env / 'pyvenv.cfg').touch()
    # A pip that succeeds at once, and logs that it was called.
    _add_python(env / 'bin', f'echo "$@" >> {tmp_path}/calls')
    (env / 'bin' / 'python3').rename(env / 'bin' / 'python')
    first = _run('onedl', env, path=programs)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == f'{env}/bin/python'
    assert [line[:5] for line in first.stdout.splitlines()[:-1]] == ['[2/4]', '[3/4]', '[4/4]']
    assert (
        'pip install --disable-pip-version-check --no-compile' in (tmp_path / 'calls').read_text()
    )

    (tmp_path / 'calls').unlink()
    second = _run('onedl', env, path=programs)
    assert second.stdout.splitlines() == [f'{env}/bin/python']
    assert 'pip' not in (tmp_path / 'calls').read_text()
    # The other stack's pins are not those of the stamp.
    assert '[2/4]' in _run('openmmlab', env, path=programs).stdout
    # No torch for the documentation.
    docs = _run('docs', env, path=programs)
    assert docs.stdout.splitlines() == ['[2/2] MkDocs', f'{env}/bin/python']
    assert 'torch' not in (tmp_path / 'calls').read_text().splitlines()[-1]


def test_pins_that_are_included_are_in_the_stamp(programs, tmp_path):
    """A copy of the checkout, whose pins can be changed."""
    root, env = tmp_path / 'a checkout', tmp_path / 'env'
    for name in 'tools', 'requirements':
        shutil.copytree(SCRIPT.parents[1] / name, root / name)
    (root / 'poslabel_mm/stack').mkdir(parents=True)
    for name in 'setup.py', 'poslabel_mm/stack/stacks.py':
        shutil.copy(SCRIPT.parents[1] / name, root / name)
    (env / 'bin').mkdir(parents=True)
    (env / 'pyvenv.cfg').touch()
    _add_python(env / 'bin', '')
    (env / 'bin' / 'python3').rename(env / 'bin' / 'python')

    def steps():
        done = subprocess.run(
            [shutil.which('bash'), root / 'tools/setup_env.sh', 'mmdet', env],
            env={'PATH': str(programs)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return len(done.stdout.splitlines()) - 1

    assert [steps(), steps()] == [3, 0]
    for name in 'mmdet', 'onedl', 'common':
        with open(root / f'requirements/constraints-{name}.txt', 'a') as file:
            file.write('# another\n')
        assert [steps(), steps()] == [3, 0], name


SLEEPING_PYTHON = """
echo "$@" >> {calls}
case "$*" in
  *'-m venv'*)  # as venv does it: folders, then pyvenv.cfg, then Python
    mkdir -p {env}/bin; mkdir {env}/first && echo made > {here} && read -r < {go}
    echo > {env}/pyvenv.cfg; cp "$0" {env}/bin/python ;;
  *'pip --version'*) [ -f {env}/pyvenv.cfg ] ;;
esac
"""


@pytest.mark.skipif(not shutil.which('flock'), reason='without flock nothing waits')
def test_two_set_ups_at_once_install_once(programs, tmp_path):
    env, calls = tmp_path / 'env', tmp_path / 'calls'
    here, go = tmp_path / 'here', tmp_path / 'go'
    os.mkfifo(here)
    os.mkfifo(go)
    here_open, go_open = (os.open(path, os.O_RDWR) for path in (here, go))
    for name in 'flock', 'cp':
        (programs / name).symlink_to(shutil.which(name))
    _add_python(programs, SLEEPING_PYTHON.format(env=env, calls=calls, here=here, go=go))

    def start():
        return subprocess.Popen(
            [shutil.which('bash'), SCRIPT, 'onedl', env],
            env={'PATH': str(programs)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    started = [start()]
    try:
        # The folder is made, and pyvenv.cfg is not.
        assert select.select([here_open], [], [], 60)[0]
        started.append(start())
        line = started[1].stderr.readline()
        assert line == f'another set-up is at work in {env}: waiting for it\n'
        os.write(go_open, b'on\n')
        (of_first, _), of_second = (process.communicate(timeout=60) for process in started)
    finally:
        for process in started:
            process.kill()
        os.close(here_open)
        os.close(go_open)
    assert [line[:5] for line in of_first.splitlines()] == [
        *(f'[{i}/4]' for i in (1, 2, 3, 4)),
        f'{env}/bin/python'[:5],
    ]
    assert of_second == (f'{env}/bin/python\n', '')
    assert [process.returncode for process in started] == [0, 0]
    assert calls.read_text().count('-m venv') == 1
    assert calls.read_text().count('pip install') == 3


@pytest.mark.skipif(not os.path.exists('/proc/self/fd'), reason='needs Linux')
def test_what_runs_in_the_environment_does_not_hold_its_lock(programs, tmp_path):
    """As quickstart.sh does: it sets up, and becomes the program that trains."""
    env = tmp_path / 'env'
    (env / 'bin').mkdir(parents=True)
    (env / 'pyvenv.cfg').touch()
    _add_python(env / 'bin', '[ "$1" != ls ] || ls -l /proc/self/fd; [ "$1" != -m ] || echo pip')
    (env / 'bin' / 'python3').rename(env / 'bin' / 'python')
    done = subprocess.run(
        [shutil.which('bash'), '-ec', f'. {SCRIPT}; setup_env onedl {env}; exec "$PYTHON" ls'],
        env={'PATH': str(programs)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert '[4/4]' in done.stdout and (env / 'setup.lock').exists()
    assert 'setup.lock' not in done.stdout


def test_a_folder_that_cannot_be_written_is_one_line(programs, tmp_path):
    (tmp_path / 'file').write_text('keep')
    _add_python(programs, '[ "$1" != -m ]')
    done = _run('onedl', tmp_path / 'file' / 'env', path=programs)
    _assert_one_line(done, f'cannot write into {tmp_path}/file/env')
