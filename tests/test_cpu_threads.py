"""CPU threads of a task that Slurm or MPI has started."""

import os

import pytest
import torch

from poslabel_mm.launch import cpu_threads
from poslabel_mm.launch.cpu_threads import share_cores


@pytest.fixture
def machine(monkeypatch):
    """A machine without a GPU, on which a process may use some of the cores."""
    set_to = []
    monkeypatch.setattr(torch, 'set_num_threads', set_to.append)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    for name in 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'SLURM_CPUS_ON_NODE', 'SLURM_GTIDS':
        monkeypatch.setenv(name, '')  # put back after
        monkeypatch.delenv(name)

    def with_cores(cores, bound, **env):
        monkeypatch.setattr(os, 'cpu_count', lambda: cores)
        monkeypatch.setattr(cpu_threads, 'bound_cores', lambda: bound)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        return set_to

    return with_cores


@pytest.mark.parametrize(
    'cores, bound, given, threads',
    [
        (64, 64, 40, 5),  # bound to nothing: a share of what the job has
        (64, 5, 40, 5),  # bound to its own
        (64, 40, 40, 5),  # bound to the job's
        (64, 1, 40, 1),
        (16, 16, 40, 2),  # Slurm takes the machine for a larger one
        (4, 4, 8, 1),
    ],
)
def test_share_of_a_slurm_job(machine, cores, bound, given, threads):
    set_to = machine(
        cores, bound, SLURM_CPUS_ON_NODE=str(given), SLURM_GTIDS='8,9,10,11,12,13,14,15'
    )
    share_cores('slurm')
    assert set_to == [threads]
    assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == str(threads)


def test_share_of_a_process_of_mpi(machine):
    set_to = machine(12, 12, OMPI_COMM_WORLD_LOCAL_SIZE='4')
    share_cores('mpi')
    assert set_to == [3]


def test_one_thread_beside_a_gpu(machine, monkeypatch):
    set_to = machine(64, 64, SLURM_CPUS_ON_NODE='40', SLURM_GTIDS='0,1')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    share_cores('slurm')
    assert set_to == [1]


def test_number_that_the_user_has_set_stays(machine):
    set_to = machine(64, 64, SLURM_CPUS_ON_NODE='40', SLURM_GTIDS='0,1', OMP_NUM_THREADS='7')
    share_cores('slurm')
    assert set_to == []
    assert os.environ['OMP_NUM_THREADS'] == os.environ['MKL_NUM_THREADS'] == '7'


@pytest.mark.parametrize('launcher', ['none', 'pytorch', 'slurm'])
def test_other_processes_are_left_alone(machine, launcher):
    set_to = machine(64, 64)
    share_cores(launcher)
    assert set_to == [] and 'OMP_NUM_THREADS' not in os.environ
