"""The port at which the processes of a Slurm job meet."""

import os

from poslabel_mm.errors import UserError

# Linux takes the ports of outgoing connections from 32768 on.
FIRST, PORTS = 15000, 15000


def choose_port(launcher: str) -> None:
    """Set ``MASTER_PORT`` to a port of this job's own, the same in all of its processes.

    ``PORT`` is taken where it is set, as by the other scripts. Otherwise the port follows from
    the numbers of the Slurm job and its step, so jobs that share a node rarely have the same one.

    Args:
        launcher (str): The value of ``--launcher``. All but 'slurm' set the port themselves.

    Raises:
        UserError: If ``PORT`` is no port.
    """
    env = os.environ
    if launcher != 'slurm' or env.get('MASTER_PORT'):
        return
    job, step = env.get('SLURM_JOB_ID', ''), env.get('SLURM_STEP_ID', '0')
    port = env.get('PORT')
    if port:
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f'PORT={port} is no port: take a number from 1 to 65535')
        env['MASTER_PORT'] = port
    elif job.isdecimal() and step.isdecimal():
        env['MASTER_PORT'] = str(FIRST + (int(job) + 1000 * int(step)) % PORTS)
