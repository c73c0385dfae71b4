"""The shell commands that train and test a run."""

import os
import os.path as osp
import shlex
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.manifest import FurtherTest
from poslabel_mm.experiments.run import PLAIN, Run
from poslabel_mm.stack.config_prefix import ROOT
from poslabel_mm.typed_command import python_as_typed

# Beside the configs, in a checkout and in a wheel.
TOOLS = ROOT.parent / 'tools'
BATCH = 'train_dataloader.batch_size'
ACCUMULATION = 'optim_wrapper.accumulative_counts'


class Command(NamedTuple):
    """A command with the variables that it is run with. As text it is a line for a shell."""

    env: dict[str, str]
    words: list[str]

    def __str__(self) -> str:
        env = [f'{name}={shlex.quote(value)}' for name, value in self.env.items()]
        return ' '.join(env + [shlex.join(self.words)])


class Launcher(NamedTuple):
    """Starts the processes of a training or a test, on this machine or through Slurm.

    Attributes:
        tools (Path): The folder of ``train.py`` and its scripts.
        gpus (int): Processes, one a GPU; on the CPU where there is none.
        partition (str): The partition of Slurm; empty to start them on this machine.
        batch_per_gpu (int, optional): Images at a time; gradients are
            accumulated up to the recipe's batch. Defaults to all of a GPU's share.
    """

    tools: Path
    gpus: int = 1
    partition: str = ''
    batch_per_gpu: int | None = None

    def train(self, run: Run) -> Command:
        """The command that starts or resumes a run.

        Raises:
            UserError: If its batch cannot be shared out over the processes.
        """
        options = ['--resume', *_data(run), '--cfg-options', *self._split(run), *run.all_options]
        config, folder = str(run.config_path), _shortest_path(run.folder)
        if self.partition:
            return self._slurm('slurm_train.sh', run.label, config, folder, *options)
        options = ['--work-dir', folder, *options]
        if self.gpus > 1:
            return self._script('dist_train.sh', config, str(self.gpus), *options)
        return self._python('train.py', config, *options)

    def test(self, run: Run, test: FurtherTest = PLAIN) -> Command:
        """The command that tests the last checkpoint of a run and writes its metrics as JSON."""
        options = [
            '--out',
            _shortest_path(run.metrics_path(test)),
            '--out-item',
            'metrics',
            *_data(run),
            '--cfg-options',
            *run.all_options,
            *test.options,
        ]
        config, checkpoint = str(run.config_path), _shortest_path(run.checkpoint)
        folder = _shortest_path(run.test_folder(test))
        if self.partition:
            return self._slurm(
                'slurm_test.sh',
                f'test-{run.label}',
                config,
                checkpoint,
                '--work-dir',
                folder,
                *options,
            )
        options = ['--work-dir', folder, *options]
        if self.gpus > 1:
            return self._script('dist_test.sh', config, checkpoint, str(self.gpus), *options)
        return self._python('test.py', config, checkpoint, *options)

    def _split(self, run: Run) -> list[str]:
        """The options that share the config's batch out over these GPUs."""
        whole = run.total_batch
        if whole is None:
            return []
        own, own_steps = run.cfg.train_dataloader.batch_size, run.accumulation
        asked = [o for o in run.options if o.partition('=')[0] in (BATCH, ACCUMULATION)]
        if asked and (self.batch_per_gpu or own * own_steps * self.gpus != whole):
            raise UserError(
                f'--cfg-options {" ".join(asked)} with --gpus {self.gpus} is a batch of '
                f'{own * own_steps * self.gpus} images, and that of {run.config} is {whole}: '
                'give --batch-per-gpu N in their place'
            )
        batch = self.batch_per_gpu
        if asked:
            batch = own
        elif batch is None:
            if whole % (own_steps * self.gpus):
                raise UserError(
                    f'the batch of {run.config}, {whole} images, cannot be shared '
                    f'by --gpus {self.gpus}: take a divisor'
                )
            batch = whole // (own_steps * self.gpus)
        if whole % (batch * self.gpus):
            raise UserError(
                f'the batch of {run.config}, {whole} images, is no multiple of '
                f'--batch-per-gpu {batch} x --gpus {self.gpus}: take a divisor'
            )
        steps = whole // (batch * self.gpus)
        before = run.accumulation_so_far()
        if before not in (None, steps):
            raise UserError(
                f'{run.folder} was begun with {whole // before} images an iteration on all GPUs, '
                'and its schedule counts iterations: that number must stay, '
                '--batch-per-gpu times --gpus'
            )
        options = [f'{BATCH}={batch}'] if batch != own else []
        return options + ([f'{ACCUMULATION}={steps}'] if steps != own_steps else [])

    def _slurm(self, script: str, job: str, *arguments: str) -> Command:
        env = dict(GPUS=str(self.gpus))
        if 'GPUS_PER_NODE' in os.environ:
            env['GPUS_PER_NODE'] = os.environ['GPUS_PER_NODE']
        # A single SIGINT is for the processes; srun would only say how they are.
        env['SLURM_DISABLE_STATUS'] = '1'
        return self._script(script, self.partition, job, *arguments, **env)

    def _script(self, name: str, *arguments: str, **env: str) -> Command:
        python = python_as_typed()
        path = {} if python == 'python' else dict(PYTHON=python)
        return Command(path | env, [_shortest_path(self.tools / name), *arguments])

    def _python(self, name: str, *arguments: str) -> Command:
        return Command({}, [python_as_typed(), _shortest_path(self.tools / name), *arguments])


def _shortest_path(path: Path) -> str:
    """The path, relative to the current folder where that is shorter."""
    return min(osp.relpath(path), osp.abspath(path), key=len)


def _data(run: Run) -> list[str]:
    return [] if run.data is None else ['--data', _shortest_path(Path(run.data))]
