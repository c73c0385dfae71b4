"""What is wrong with a checkpoint, found before a run touches its work dir."""
import copy
import os.path as osp
import re
from contextlib import contextmanager
from glob import escape, glob
from typing import Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from poslabel_mm.compat import load_from_local
from poslabel_mm.errors import UserError
from .hooks.last_saved import last_saved

RESUME_KEYS = ('state_dict', 'optimizer', 'meta', 'message_hub')


def _load(path: str) -> dict:
    content = load_from_local(path, 'cpu', mmap=True)
    if not isinstance(content, dict):
        raise UserError(f'{path} is no checkpoint of a model: it holds a '
                        f'{type(content).__name__}, not a dict')
    return content


def check_resume(cfg: Config) -> None:
    """Check the checkpoint that a run with ``cfg`` is to be resumed from.

    Args:
        cfg (Config): A training config, ``resume`` and ``load_from`` as
            MMEngine reads them.

    Raises:
        UserError: If resuming would fail, with the way out: for an automatic
            resume the newest older checkpoint that is intact.
    """
    path = cfg.get('load_from')
    if path is not None:
        if '://' not in path:
            _check_resumable(path, cfg)
        return
    path = last_saved(cfg.work_dir)
    if path is None:
        if not osp.isfile(osp.join(cfg.work_dir, 'last_checkpoint')):
            return  # nothing was saved: MMEngine starts anew
        path = osp.join(cfg.work_dir, 'last_checkpoint')
    try:
        content = _load(path)
    except UserError as error:
        older = _newest_intact(cfg.work_dir, but=path)
        way_out = f'--resume {older}' if older else (
            'start again in another --work-dir')
        raise UserError(f'{error}; go on with: {way_out}') from None
    _check_resumable(path, cfg, content)


def check_weights(path: str, cfg: Config) -> None:
    """Check the checkpoint that a model is to be tested with.

    Args:
        path (str): A checkpoint file; an address is left to MMEngine.
        cfg (Config): A config with that model.

    Raises:
        UserError: If it is unreadable, or other than position heads the
            model has parameters that it lacks.
    """
    if '://' in path:
        return
    content = _load(path)
    missing, _ = _mismatches(path, content.get('state_dict', content),
                             _build_model(cfg))
    missing = [key for key in missing if not key.startswith('pos_head.')]
    if missing:
        raise UserError(f'checkpoint {path} is not of this model: it lacks '
                        f'{_some(missing)}. Is it the right config?')


def check_pretrained(cfg: Config) -> None:
    """Check the checkpoints that parts of a model are initialised from.

    MMEngine logs weights of another size and trains without them.

    Args:
        cfg (Config): A training config.

    Raises:
        UserError: If an ``init_cfg`` of type ``Pretrained`` names no readable
            checkpoint, or none that fits its part of the model.
    """
    found = list(_pretrained_parts(cfg.get('model'), ()))
    model = _build_model(cfg) if found else None
    for part, init_cfg in found:
        key = '.'.join(('model', *part, 'init_cfg', 'checkpoint'))
        path = init_cfg.get('checkpoint') or ''
        if '://' in path:
            continue
        if not osp.isfile(osp.expanduser(path)):
            what = f'checkpoint {path} does not exist' if path else (
                'no checkpoint is named to start from')
            raise UserError(f'{what}: train that model first, or name another '
                            f'with --cfg-options {key}=FILE')
        content = _load(path)
        prefix = init_cfg.get('prefix') or ''
        if prefix and not prefix.endswith('.'):
            prefix += '.'
        state_dict = {
            name[len(prefix):]: value
            for name, value in content.get('state_dict', content).items()
            if name.startswith(prefix)
        }
        module = model.get_submodule('.'.join(part))
        missing, _ = _mismatches(path, state_dict, module)
        if len(missing) == len(module.state_dict()):
            raise UserError(
                f'checkpoint {path} has nothing of {".".join(part) or "this"} '
                f'under the prefix {prefix!r}; name another with '
                f'--cfg-options {key}=FILE')


def _pretrained_parts(node, part: Tuple[str, ...]
                      ) -> Iterator[Tuple[Tuple[str, ...], dict]]:
    if not isinstance(node, dict):
        return
    init_cfg = node.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained':
        yield part, init_cfg
    for key, value in node.items():
        if key != 'init_cfg':
            yield from _pretrained_parts(value, part + (key, ))


def _check_resumable(path: str,
                     cfg: Config,
                     content: Optional[dict] = None) -> None:
    content = _load(path) if content is None else content
    lacking = [key for key in RESUME_KEYS if key not in content]
    meta = content.get('meta')
    if not lacking and not (isinstance(meta, dict) and 'epoch' in meta
                            and 'iter' in meta):
        lacking = ['meta.epoch']
    if lacking:
        raise UserError(
            f'checkpoint {path} cannot be resumed: it has no '
            f'{", ".join(lacking)}. To start a new run from its weights, use '
            f'--cfg-options load_from={path} without --resume')
    model = _build_model(cfg)
    missing, unexpected = _mismatches(path, content['state_dict'], model)
    if missing or unexpected:
        parts = [f'it lacks {_some(missing)}'] if missing else []
        parts += [f'it has {_some(unexpected)}'] if unexpected else []
        raise UserError(f'checkpoint {path} is not of this model: '
                        f'{" and ".join(parts)}. Resume with the config that '
                        'it was trained with, or use another --work-dir')
    _check_optimizer(path, content['optimizer'], model, cfg)


def _check_optimizer(path: str, saved: dict, model: nn.Module,
                     cfg: Config) -> None:
    wrapper_cfg = cfg.optim_wrapper
    optimizer_cfg = wrapper_cfg.get('optimizer')
    if (not isinstance(optimizer_cfg, dict) or 'runner_type' in cfg
            # Can be built only once the processes have joined.
            or optimizer_cfg.get('type') == 'ZeroRedundancyOptimizer'):
        return
    with _quiet():
        wrapper = build_optim_wrapper(model, wrapper_cfg)
    if isinstance(wrapper, OptimWrapperDict):
        return
    optimizer = wrapper.optimizer
    options = [set(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(saved)
    except KeyError as error:
        reason = f'it has no {error.args[0]}'
    except Exception as error:
        reason = ' '.join(str(error).split())
    else:
        # Where torch's versions differ, loading has filled the options in.
        lacking = set().union(*(
            before.difference(group)
            for before, group in zip(options, optimizer.param_groups)))
        reason = f'it has no {_some(sorted(lacking))}' if lacking else None
    if reason is not None:
        raise UserError(
            f'checkpoint {path} is not of this optimizer '
            f'({type(optimizer).__name__}): {reason}. Resume with the config '
            'that it was trained with, or start a new run from its weights: '
            f'--cfg-options load_from={path} without --resume')


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the line for every parameter that the Runner will log."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)


def _build_model(cfg: Config) -> nn.Module:
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    model_cfg = copy.deepcopy(cfg.model)
    # Test-time augmentation wraps the model that the checkpoint is of.
    model_cfg = model_cfg.get('module', model_cfg)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor',
                             copy.deepcopy(cfg.data_preprocessor))
    return MODELS.build(model_cfg)


def _mismatches(path: str, state_dict: dict,
                model: nn.Module) -> Tuple[List[str], List[str]]:
    """Missing and unexpected keys, after the model's own adaptations."""
    state_dict = {
        re.sub(r'^module\.', '', key): value
        for key, value in state_dict.items()
    }
    try:
        result = model.load_state_dict(state_dict, strict=False)
    except Exception as error:
        # A size mismatch (RuntimeError), or a model's own hook giving up.
        sizes = re.findall(r'size mismatch for (.+?)(?:\.$|\.\n|\. *\t|$)',
                           str(error), re.MULTILINE)
        reason = _some(sizes) if sizes else str(error).splitlines()[0]
        raise UserError(f'checkpoint {path} is not of this model: '
                        f'{reason}') from None
    return list(result.missing_keys), list(result.unexpected_keys)


def _newest_intact(work_dir: str, but: str) -> Optional[str]:
    candidates = glob(osp.join(escape(work_dir), '*.pth'))
    for path in sorted(candidates, key=osp.getmtime, reverse=True):
        if osp.abspath(path) == osp.abspath(but):
            continue
        try:
            content = _load(path)
        except UserError:
            continue
        if all(key in content for key in RESUME_KEYS):
            return path
    return None


def _some(names: List[str], most: int = 3) -> str:
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')
