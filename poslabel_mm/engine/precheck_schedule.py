"""Does the learning rate's schedule fit into the run?"""
from mmengine.config import Config

from poslabel_mm.errors import UserError

# Of a run, for the way out that is offered.
WARMUP = 0.1


def check_schedule(cfg: Config) -> None:
    """Check that every parameter scheduler begins before it ends.

    One without an ``end`` ends with the run: where only the run was made
    shorter, a warm-up may be longer than the run.

    Args:
        cfg (Config): A training config. Several optimizers' schedulers, and
            those that count iterations in a run that counts epochs or the
            other way round, are left to MMEngine.

    Raises:
        UserError: With the run's length and what is to be changed with it.
    """
    train_cfg = cfg.get('train_cfg') or {}
    by_epoch = 'max_epochs' in train_cfg
    option = 'max_epochs' if by_epoch else 'max_iters'
    length = train_cfg.get(option)
    schedulers = cfg.get('param_scheduler') or []
    keys = [f'param_scheduler.{i}' for i in range(len(schedulers))]
    if isinstance(schedulers, dict):
        schedulers, keys = [schedulers], ['param_scheduler']
    if length is None or any('type' not in one for one in schedulers):
        return
    for key, scheduler in zip(keys, schedulers):
        if scheduler.get('by_epoch', True) != by_epoch:
            continue
        begin, end = scheduler.get('begin', 0), scheduler.get('end', length)
        if begin < end:
            continue
        warmup = WARMUP * length if by_epoch else int(WARMUP * length)
        changes = [(f'{other}.end', warmup)
                   for other, earlier in zip(keys, schedulers)
                   if earlier.get('end') == begin]
        changes.append((f'{key}.begin', warmup))
        if 'T_max' in scheduler:
            changes.append((f'{key}.T_max', length - warmup))
        options = ' '.join(f'{name}={value:g}' for name, value in changes)
        raise UserError(
            f'{key} begins at {begin} and ends at {end}, with '
            f'train_cfg.{option}={length}: change them together, such as '
            f'--cfg-options train_cfg.{option}={length} {options}')
