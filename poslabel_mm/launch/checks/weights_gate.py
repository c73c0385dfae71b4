"""Which differences between a checkpoint and a model are refused.

There are three rules:

- :func:`check_start`: training starts from the weights. The backbone has to be complete, with no
  weights left over; heads may differ.
- :func:`check_same`: training is resumed. The model has to be the same.
- :func:`check_scored`: the model is tested. It has to be the same but for its position heads,
  which do not run then.
"""

import re

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.differences import Differences, is_no_weight
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.launch.checks.opened_checkpoint import Checkpoint

# Positional encodings, learned or fixed, which a model may have or not.
POSITIONS = re.compile(
    r'pos_embed|pos(ition)?_(embedding|encoding|token)|relative_|rel_pos|'
    r'attention_bias|attn_mask|_pos$|(^|\.)cpe\.'
)
NORMS = nn.LayerNorm, nn.GroupNorm, _NormBase


def check_start(
    checkpoint: Checkpoint, module: nn.Module, differences: Differences, name: str
) -> None:
    """Refuse weights that training cannot start from.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): The model, or a part of it, that the weights are for.
        differences (Differences): What differs between the two.
        name (str): The part's name in the model; '' for the model itself. A model needs its
            backbone; its heads may differ, as for other classes, and parts that only one side
            has are ignored.

    Raises:
        UserError: The names of what does not fit.
    """
    refused = _of_part(module, '', differences) if name else _of_model(module, differences)
    if refused:
        raise refusal(checkpoint, refused, name)


def check_same(checkpoint: Checkpoint, differences: Differences) -> None:
    """Refuse a checkpoint of another model than the one to be resumed.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        differences (Differences): What differs between it and the model.

    Raises:
        UserError: The names of what does not fit.
    """
    if differences:
        raise refusal(checkpoint, differences)


def check_scored(checkpoint: Checkpoint, differences: Differences) -> None:
    """Refuse a checkpoint that differs from a model to be tested in more than position heads.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        differences (Differences): What differs between it and the model.

    Raises:
        UserError: The names of what does not fit.
    """
    refused = differences.without('pos_head.')
    if refused:
        raise refusal(checkpoint, refused)


def refusal(checkpoint: Checkpoint, differences: Differences, name: str = '') -> UserError:
    """Make the error that names what does not fit, and the code that wrote the weights.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        differences (Differences): What does not fit.
        name (str): The part's name in the model; '' for the model itself.
    """
    whose = whose_keys(checkpoint.content)
    if any(isinstance(value, Tensor) for value in checkpoint.weights.values()):
        reason = f'{differences}; {whose}' if whose else f'{differences}'
    else:
        reason = whose or 'it holds no weights'
    return UserError(f'checkpoint {checkpoint.path} is not of {name or "this model"}: {reason}')


def _of_model(model: nn.Module, differences: Differences) -> Differences:
    """The differences that are left after each part of the model was compared by itself."""
    missing = set(differences.missing)
    remaining = Differences([], [], [])
    filled = False
    for name, part in model.named_children():
        own = {
            f'{name}.{key}' for key, value in part.state_dict().items() if not is_no_weight(value)
        }
        if not own or own <= missing and name != 'backbone':
            continue
        filled = True
        if name.endswith('head'):
            continue  # for other classes or positions; a detector has several
        of_part = _of_part(part, f'{name}.', differences)
        remaining.missing.extend(of_part.missing)
        remaining.unexpected.extend(of_part.unexpected)
        remaining.resized.extend(of_part.resized)
    return remaining if filled else differences


def _of_part(part: nn.Module, prefix: str, differences: Differences) -> Differences:
    """The differences of one part, without those that are allowed.

    Positional encodings and Swin's last patch merging may differ in any way. Norms after the last
    layer and class or mask tokens may be missing. Children that the part does not have may be in
    the checkpoint.
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
        # A fixed encoding is computed again. A learned one of another size is lost, unless
        # the model's own loading code has resized it.
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
