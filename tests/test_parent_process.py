"""Nothing goes on that the launcher's end has left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parent.parent / 'poslabel_mm' / 'launch' / 'parent_process.py'

# A launcher, which starts CHILD and says when it is ready. By the file alone:
# importing the package takes seconds.
LOAD = f"""
import importlib.util, os, signal, subprocess, sys, time
spec = importlib.util.spec_from_file_location('parent_process', {str(MODULE)!r})
parent_process = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parent_process)
"""
LAUNCHER = (
    LOAD
    + """
env = {**os.environ, **parent_process.followed()}
subprocess.Popen([*sys.argv[2:], sys.executable, '-c', sys.argv[1]], env=env)
time.sleep(60)
"""
)
CHILD = (
    LOAD
    + """
parent_process.WATCH_SECONDS = 0.02
{before}
parent_process.follow_parent()
assert 'POSLABEL_MM_PARENT' not in os.environ
print(os.getpid(), flush=True)
time.sleep(60)
"""
)
WATCH = 'sys.platform = "another"'


def start(child, *wrapper, env=()):
    return subprocess.Popen(
        [sys.executable, '-c', LAUNCHER, child, *wrapper],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **dict(env)},
    )


def ends(pid):
    """Whether a process ends by itself; it is killed if it does not."""
    for _ in range(500):
        # One that nobody has waited for is still there by its number.
        state = Path(f'/proc/{pid}/stat')
        if not state.exists() or state.read_text().rpartition(')')[2].split()[0] == 'Z':
            return True
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return False


pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')


@pytest.mark.parametrize('before', ['', WATCH], ids=['kernel', 'watch'])
@pytest.mark.parametrize('wrapper', [(), ('sh', '-c', '"$@"; true', 'sh')], ids=['own', 'wrapped'])
def test_a_process_ends_with_its_launcher(before, wrapper):
    launcher = start(CHILD.format(before=before), *wrapper)
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    assert ends(pid)


@pytest.mark.parametrize('before', ['', WATCH], ids=['kernel', 'watch'])
def test_a_launcher_may_be_gone_before_it_is_followed(before):
    wait = (
        'print(os.getpid(), flush=True)\n'
        "while os.getppid() == int(os.environ['POSLABEL_MM_PARENT']): time.sleep(0.01)"
    )
    launcher = start(CHILD.format(before=before + '\n' + wait))
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    assert ends(pid)
    assert not launcher.stdout.read()  # it did not get to its work


def test_torchruns_processes_are_killed_and_others_may_end_cleanly():
    ignore = 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("ending", flush=True)))'
    for env, said in ((), 'ending\n'), ({'TORCHELASTIC_RUN_ID': 'none'}, ''):
        launcher = start(CHILD.format(before=ignore), env=env)
        pid = int(launcher.stdout.readline())
        launcher.kill()
        launcher.wait()
        assert ends(pid)
        assert launcher.stdout.read() == said


def test_a_process_that_nobody_launched_is_left_alone():
    alone = CHILD.format(before='').replace('time.sleep(60)', '')
    env = {k: v for k, v in os.environ.items() if k != 'TORCHELASTIC_RUN_ID'}
    assert (
        subprocess.run(
            [sys.executable, '-c', alone], env=env, stdout=subprocess.DEVNULL
        ).returncode
        == 0
    )


def test_workers_die_with_the_process_that_forked_them():
    parent = (
        LOAD
        + """
parent_process.forked_children_follow()
parent_process.forked_children_follow()
worker = os.fork()
if not worker:
    print(os.getpid(), flush=True)
time.sleep(60)
"""
    )
    process = subprocess.Popen([sys.executable, '-c', parent], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    assert ends(worker)


def test_what_a_thread_forked_does_not_die_with_the_thread():
    parent = (
        LOAD
        + """
import threading
parent_process.forked_children_follow()
def fork():
    global worker
    worker = os.fork()
    if not worker:
        time.sleep(0.5)
        os._exit(7)
thread = threading.Thread(target=fork)
thread.start()
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
"""
    )
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', parent]).returncode == 7
