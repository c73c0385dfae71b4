"""What a checkpoint's weights are to a model, before MMEngine loads them.

MMEngine trains and scores whatever a checkpoint leaves of a model: what does
not fit is a line in the log. Here it is an error, by one of three rules:

- :func:`check_start`: training starts from the weights. All of the backbone
  has to be there and nothing of it left over; heads may be others.
- :func:`check_same`: training goes on. The model has to be the same.
- :func:`check_scored`: the model is tested. It has to be the same, but for its
  position heads, which are idle then.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model, load_state_dict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.stack.checkpoint_file import check_records, read

# A Runner and an `init_cfg` take them off differently.
RUNNER_PREFIX = r'^module.'
INIT_PREFIX = r'^module\.'

# Encodings of positions, learned or tables, which models may have or not.
POSITIONS = re.compile(
    r'pos_embed|pos(ition)?_(embedding|encoding|token)|relative_|rel_pos|'
    r'attention_bias|attn_mask|_pos$|(^|\.)cpe\.'
)
NORMS = nn.LayerNorm, nn.GroupNorm, _NormBase


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that is whole and holds a dict.

    Args:
        path (str): As the user named it.
        content (dict): What the file holds, its tensors on the disk.
    """

    path: str
    content: dict

    @property
    def weights(self) -> dict:
        """What MMEngine takes for the weights."""
        return self.content.get('state_dict', self.content)


@dataclass(frozen=True)
class Differences:
    """Names of what a checkpoint and a model do not share.

    Args:
        missing (list[str]): What the model has and the checkpoint lacks.
        unexpected (list[str]): What the checkpoint has and the model lacks.
        resized (list[str]): What is of another shape, or no tensor.
    """

    missing: list[str]
    unexpected: list[str]
    resized: list[str]

    def without(self, *prefixes: str) -> 'Differences':
        """All but the names that begin with one of the prefixes."""
        return Differences(
            *(
                [name for name in names if not name.startswith(prefixes)]
                for names in (self.missing, self.unexpected, self.resized)
            )
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.resized)

    def __str__(self) -> str:
        said = [f'it lacks {some(self.missing)}'] if self.missing else []
        if self.unexpected:
            said.append(f'it has {some(self.unexpected)}, for which the model has no place')
        if self.resized:
            said.append(f'of another size are {some(self.resized)}')
        return '; '.join(said)


def open_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint and check all that needs no model.

    Args:
        path (str): Path of the file.

    Raises:
        UserError: If it is unreadable or damaged, holds something else than
            named weights, or NaN or infinity among them.
    """
    check_records(path)
    content = read(path, 'cpu', mmap=True)
    if not isinstance(content, dict):
        raise UserError(
            f'checkpoint {path} is not of a model: it holds a {type(content).__name__}, not a dict'
        )
    checkpoint = Checkpoint(path, content)
    weights = checkpoint.weights
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise UserError(f'checkpoint {path} is not of a model: its state_dict holds no names')
    _check_finite(path, weights)
    return checkpoint


def check_averaged(checkpoint: Checkpoint) -> None:
    """Check the second set of weights, which a resumed average of them takes.

    Raises:
        UserError: If there is NaN or infinity among them.
    """
    averaged = checkpoint.content.get('ema_state_dict')
    if isinstance(averaged, dict):
        _check_finite(
            checkpoint.path, {f'ema_state_dict.{name}': value for name, value in averaged.items()}
        )


def _check_finite(path: str, weights: dict) -> None:
    spoilt = [name for name, value in weights.items() if _is_spoilt(name, value)]
    if spoilt:
        raise UserError(
            f'checkpoint {path} holds NaN or infinity in {some(spoilt)}: its training '
            'had failed; take an earlier one'
        )


def _is_spoilt(name: str, value: Any) -> bool:
    if not isinstance(value, Tensor) or value.numel() == 0 or 'attn_mask' in name:
        return False
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False
    # NaN if there is one; a tenth of the time of isfinite.
    return not torch.stack(value.aminmax()).isfinite().all()


def check_start(
    checkpoint: Checkpoint, module: nn.Module, differences: Differences, name: str
) -> None:
    """Refuse weights that training cannot start from.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): What is to be filled.
        differences (Differences): Between the two.
        name (str): The module's name in the model; '' for the model itself,
            whose parts may differ: heads are others for other classes, and
            those that only one side has are passed over, but the backbone is
            needed.

    Raises:
        UserError: Naming what does not fit.
    """
    left = _of_part(module, '', differences) if name else _of_model(module, differences)
    if left:
        raise refusal(checkpoint, left, name)


def check_same(checkpoint: Checkpoint, differences: Differences) -> None:
    """Refuse a checkpoint of another model.

    Raises:
        UserError: Naming what does not fit.
    """
    if differences:
        raise refusal(checkpoint, differences)


def check_scored(checkpoint: Checkpoint, differences: Differences) -> None:
    """Refuse a checkpoint that fills a model in part, or is cut by it.

    Raises:
        UserError: Naming what does not fit.
    """
    left = differences.without('pos_head.')
    if left:
        raise refusal(checkpoint, left)


def refusal(checkpoint: Checkpoint, differences: Differences, name: str = '') -> UserError:
    """The error that names what does not fit, and whose weights they are.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        differences (Differences): What to name.
        name (str): The part's name in the model; '' for the model itself.
    """
    whose = whose_keys(checkpoint.content)
    if any(isinstance(value, Tensor) for value in checkpoint.weights.values()):
        reason = f'{differences}; {whose}' if whose else f'{differences}'
    else:
        reason = whose or 'it holds no weights'
    return UserError(f'checkpoint {checkpoint.path} is not of {name or "this model"}: {reason}')


def compare_whole(
    checkpoint: Checkpoint, module: nn.Module, taken_off: str = RUNNER_PREFIX
) -> Differences:
    """Load a checkpoint as MMEngine does without a prefix.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): What is filled.
        taken_off (str): Regular expression of what MMEngine takes off each
            name: :data:`RUNNER_PREFIX` or :data:`INIT_PREFIX`.

    Raises:
        UserError: If the module's own way of loading gives up.
    """

    def load() -> None:
        _load_checkpoint_to_model(
            module, checkpoint.content, strict=True, revise_keys=[(taken_off, '')]
        )

    given = {re.sub(taken_off, '', key): value for key, value in checkpoint.weights.items()}
    return _differences(checkpoint, module, given, load)


def compare_below(checkpoint: Checkpoint, module: nn.Module, prefix: str) -> Differences:
    """Load what lies below a prefix, as MMEngine's ``init_cfg`` does.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): What is filled.
        prefix (str): As in the ``init_cfg``.

    Raises:
        UserError: If nothing lies there, or the module's own way of loading
            gives up.
    """
    dotted = prefix if prefix.endswith('.') else prefix + '.'
    given = {
        key[len(dotted) :]: value
        for key, value in checkpoint.weights.items()
        if key.startswith(dotted)
    }
    if not given:
        tops = sorted({key.partition('.')[0] for key in checkpoint.weights})
        begin = f'its keys begin with {some(tops)}' if tops else 'it is empty'
        raise UserError(
            f'checkpoint {checkpoint.path} has nothing under the prefix {prefix!r}: '
            f'{whose_keys(checkpoint.content) or begin}'
        )
    return _differences(
        checkpoint, module, given, lambda: load_state_dict(module, given, strict=True)
    )


def _differences(
    checkpoint: Checkpoint, module: nn.Module, given: dict, load: Callable[[], None]
) -> Differences:
    """What MMEngine's loading, with the model's own adaptations, finds."""
    found: list = []
    handle = module.register_load_state_dict_post_hook(lambda _, keys: found.append(keys))
    text = ''
    try:
        load()
    except Exception as error:
        text = str(error)
        if 'state dict do not match exactly' not in text:
            # The model's own way of loading gave up.
            reason = next(iter(text.splitlines()), '') or type(error).__name__
            raise UserError(
                f'checkpoint {checkpoint.path} is not of this model: {reason}'
            ) from error
    finally:
        handle.remove()
    (keys,) = found
    own = module.state_dict()
    return Differences(
        [name for name in keys.missing_keys if not _is_counted(own.get(name))],
        [name for name in keys.unexpected_keys if not _is_counted(given.get(name))],
        re.findall(r'(?:size mismatch for |parameter named ")([^\s":]+)', text),
    )


def _is_counted(value: Any) -> bool:
    """Whether it is a table of indices or a count, and no weight."""
    return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())


def _of_model(model: nn.Module, differences: Differences) -> Differences:
    """What remains when the model's parts are looked at one by one."""
    missing = set(differences.missing)
    remaining = Differences([], [], [])
    filled = False
    for name, part in model.named_children():
        own = {
            f'{name}.{key}' for key, value in part.state_dict().items() if not _is_counted(value)
        }
        if not own or own <= missing and name != 'backbone':
            continue
        filled = True
        if name.endswith('head'):
            continue  # of other classes or positions, a detector's too
        of_part = _of_part(part, f'{name}.', differences)
        remaining.missing.extend(of_part.missing)
        remaining.unexpected.extend(of_part.unexpected)
        remaining.resized.extend(of_part.resized)
    return remaining if filled else differences


def _of_part(part: nn.Module, prefix: str, differences: Differences) -> Differences:
    """What remains of a part's weights without those that may differ.

    These are the encodings of positions, Swin's last merging, norms at the
    part's end and single tokens; the part's ends that this one does not have.
    """
    children = dict(part.named_children())
    parameters = dict(part.named_parameters())
    merging = re.compile(r'stages\.(\d+)\.downsample\.')
    stages = [int(match[1]) for match in map(merging.match, parameters) if match]

    def is_last_merging(key: str) -> bool:
        match = merging.match(key)
        return match is not None and int(match[1]) == max(stages, default=-1)

    def may_be_missing(key: str) -> bool:
        top, dot, _ = key.partition('.')
        return bool(
            POSITIONS.search(key)
            or is_last_merging(key)
            or isinstance(children.get(top), NORMS)
            or not dot
            and 'token' in top
        )

    def may_be_left_over(key: str) -> bool:
        return bool(POSITIONS.search(key)) or key.partition('.')[0] not in children

    def may_be_resized(key: str) -> bool:
        if is_last_merging(key):
            return True
        # An encoding that is learned is of no use at another size, unless the
        # model's own way of loading has resized it; a fixed one is computed.
        is_learned = key not in parameters or parameters[key].requires_grad
        return bool(POSITIONS.search(key)) and not (key.endswith('pos_embed') and is_learned)

    return Differences(
        *(
            [
                name
                for name in names
                if name.startswith(prefix) and not may_differ(name[len(prefix) :])
            ]
            for names, may_differ in (
                (differences.missing, may_be_missing),
                (differences.unexpected, may_be_left_over),
                (differences.resized, may_be_resized),
            )
        )
    )


def some(names: list[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - most
    return ', '.join(names[:most]) + (f' and {more} more' if more > 0 else '')
