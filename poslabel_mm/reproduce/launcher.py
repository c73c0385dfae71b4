"""The shell commands that train and test a run."""
import os
import os.path as osp
import shlex
import shutil
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

from poslabel_mm.errors import UserError
from .run import Run

GPUS_PER_NODE = 8


class Command(NamedTuple):
    """What is run, and what is printed of it."""
    env: Dict[str, str]
    words: List[str]

    def __str__(self) -> str:
        env = [f'{name}={shlex.quote(value)}' for name, value in self.env.items()]
        return ' '.join(env + [shlex.join(self.words)])


class Launcher(NamedTuple):
    """How processes are started.

    Attributes:
        tools (Path): The folder of ``train.py`` and its scripts.
        gpus (int): Processes, one a GPU; on the CPU where there is none.
        partition (str): Of Slurm; empty to start them on this machine.
    """
    tools: Path
    gpus: int = 1
    partition: str = ''

    def train(self, run: Run) -> Command:
        """Begin or go on with a run."""
        options = ['--resume', '--cfg-options', *self._split(run), *run.all_options]
        config, folder = str(run.config_path), _shown(run.folder)
        if self.partition:
            return self._slurm('slurm_train.sh', run.label, config, folder, *options)
        options = ['--work-dir', folder, *options]
        if self.gpus > 1:
            return self._script('dist_train.sh', config, str(self.gpus), *options)
        return self._python('train.py', config, *options)

    def test(self, run: Run) -> Command:
        """Test the last checkpoint of a run; metrics in percent, as JSON."""
        options = ['--out', _shown(run.metrics_path), '--out-item', 'metrics',
                   '--cfg-options', *run.all_options]
        config, checkpoint = str(run.config_path), _shown(run.checkpoint)
        folder = _shown(run.folder / 'test')
        if self.partition:
            return self._slurm('slurm_test.sh', f'test-{run.label}', config, checkpoint,
                               '--work-dir', folder, *options)
        options = ['--work-dir', folder, *options]
        if self.gpus > 1:
            return self._script('dist_test.sh', config, checkpoint, str(self.gpus), *options)
        return self._python('test.py', config, checkpoint, *options)

    def _split(self, run: Run) -> List[str]:
        """The recipe's batch over these GPUs, where they are not the recipe's."""
        if any(o.startswith('train_dataloader.batch_size=') for o in run.options):
            return []
        own = run.cfg.train_dataloader.batch_size
        whole = (run.cfg.get('auto_scale_lr') or {}).get('base_batch_size', own * GPUS_PER_NODE)
        if own * self.gpus == whole:
            return []
        if whole % self.gpus:
            raise UserError(f'the batch of {run.config}, {whole} images, cannot be shared by '
                            f'--gpus {self.gpus}: take a divisor, or set '
                            '--cfg-options train_dataloader.batch_size=...')
        return [f'train_dataloader.batch_size={whole // self.gpus}']

    def _slurm(self, script: str, job: str, *arguments: str) -> Command:
        env = dict(GPUS=str(self.gpus), GPUS_PER_NODE=str(min(self.gpus, GPUS_PER_NODE)))
        if 'GPUS_PER_NODE' in os.environ:
            env['GPUS_PER_NODE'] = os.environ['GPUS_PER_NODE']
        return self._script(script, self.partition, job, *arguments, env=env)

    def _script(self, name: str, *arguments: str, env: Dict[str, str] = {}) -> Command:
        python = _python()
        path = {} if python == 'python' else dict(PYTHON=python)
        return Command(path | env, [_shown(self.tools / name), *arguments])

    def _python(self, name: str, *arguments: str) -> Command:
        return Command({}, [_python(), _shown(self.tools / name), *arguments])


def _python() -> str:
    """This Python, as one would type it from here."""
    typed = shutil.which('python')
    return 'python' if typed and osp.samefile(typed, sys.executable) and (
        osp.dirname(typed) == osp.dirname(sys.executable)) else sys.executable


def _shown(path: Path) -> str:
    """Relative to here where that is shorter."""
    return min(osp.relpath(path), osp.abspath(path), key=len)
