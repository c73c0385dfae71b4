"""Takes the place of ``ChildProcesses``: the tools run in this process."""

import signal
import sys
from pathlib import Path

from poslabel_mm.engine.folder_lock import hand_on
from poslabel_mm.launch import tools as launch


class InProcess:
    """Runs the tools in this process.

    Attributes:
        tools (list[str]): The tools that have run.
    """

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.tools = []
        self.received = None

    def __call__(self, *arguments, **options):
        return self

    def run(self, words, env, locks, out):
        tool = Path(words[1]).name
        self.tools.append(tool)
        self.monkeypatch.setattr(sys, 'argv', words[1:])
        # It is called from a thread, where signals cannot be handled.
        with self.monkeypatch.context() as patched:
            patched.setattr(signal, 'signal', lambda *arguments: None)
            for name, value in {**env, **hand_on(locks)}.items():
                patched.setenv(name, value)
            {'train.py': launch.train, 'test.py': launch.test}[tool]()
        return 0

    def restore(self):
        pass
