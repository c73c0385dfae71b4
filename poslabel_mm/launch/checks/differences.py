"""What differs between a checkpoint and a model.

MMEngine accepts a checkpoint that fits a model only in part, and logs the rest. Here a checkpoint
is loaded just as MMEngine loads it, and what does not fit is returned.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmengine.runner.checkpoint import _load_checkpoint_to_model, load_state_dict
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.foreign_keys import whose_keys
from poslabel_mm.launch.checks.opened_checkpoint import Checkpoint
from poslabel_mm.launch.checks.wording import first_names

# The prefix that MMEngine removes from the keys: a Runner and an `init_cfg` differ.
RUNNER_PREFIX = r'^module.'
INIT_PREFIX = r'^module\.'


@dataclass(frozen=True)
class Differences:
    """Names of the tensors that differ between a checkpoint and a model.

    Args:
        missing (list[str]): Those that only the model has.
        unexpected (list[str]): Those that only the checkpoint has.
        resized (list[str]): Those whose shapes differ, or that are no tensor in the checkpoint.
    """

    missing: list[str]
    unexpected: list[str]
    resized: list[str]

    def without(self, *prefixes: str) -> 'Differences':
        """The differences whose names begin with none of the prefixes."""
        return Differences(
            *(
                [name for name in names if not name.startswith(prefixes)]
                for names in (self.missing, self.unexpected, self.resized)
            )
        )

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.resized)

    def __str__(self) -> str:
        parts = [f'it lacks {first_names(self.missing)}'] if self.missing else []
        if self.unexpected:
            extra = first_names(self.unexpected)
            parts.append(f'it has {extra}, for which the model has no place')
        if self.resized:
            parts.append(f'it has other sizes for {first_names(self.resized)}')
        return '; '.join(parts)


def compare_whole(
    checkpoint: Checkpoint, module: nn.Module, removed: str = RUNNER_PREFIX
) -> Differences:
    """Load a whole checkpoint as MMEngine does, and return what does not fit.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): The model, or a part of it. Its weights are overwritten.
        removed (str): Regular expression of what MMEngine removes from each key:
            :data:`RUNNER_PREFIX` or :data:`INIT_PREFIX`.

    Raises:
        UserError: If the module's own loading code raises an error.
    """

    def load() -> None:
        _load_checkpoint_to_model(
            module, checkpoint.content, strict=True, revise_keys=[(removed, '')]
        )

    given = {re.sub(removed, '', key): value for key, value in checkpoint.weights.items()}
    return _differences(checkpoint, module, given, load)


def compare_below(checkpoint: Checkpoint, module: nn.Module, prefix: str) -> Differences:
    """Load the keys with a prefix as MMEngine's ``init_cfg`` does, and return what does not fit.

    Args:
        checkpoint (Checkpoint): The checkpoint.
        module (nn.Module): The model, or a part of it. Its weights are overwritten.
        prefix (str): As in the ``init_cfg``.

    Raises:
        UserError: If no key has the prefix, or the module's own loading code raises an error.
    """
    start = with_dot(prefix) or '.'
    given = {
        key[len(start) :]: value
        for key, value in checkpoint.weights.items()
        if key.startswith(start)
    }
    if not given:
        tops = sorted({key.partition('.')[0] for key in checkpoint.weights})
        begin = f'its keys begin with {first_names(tops)}' if tops else 'it is empty'
        raise UserError(
            f'checkpoint {checkpoint.path} has nothing under the prefix {prefix!r}: '
            f'{whose_keys(checkpoint.content) or begin}'
        )
    return _differences(
        checkpoint, module, given, lambda: load_state_dict(module, given, strict=True)
    )


def with_dot(prefix: str) -> str:
    """What keys begin with for a prefix that may lack the dot; '' stays as it is."""
    return prefix if not prefix or prefix.endswith('.') else prefix + '.'


def _differences(
    checkpoint: Checkpoint, module: nn.Module, given: dict, load: Callable[[], None]
) -> Differences:
    """The differences that remain after loading, which may adapt weights to the module."""
    found: list = []
    handle = module.register_load_state_dict_post_hook(lambda _, keys: found.append(keys))
    text = ''
    try:
        load()
    except Exception as error:
        text = str(error)
        if 'state dict do not match exactly' not in text:
            # Raised by the model's own loading code.
            reason = next(iter(text.splitlines()), '') or type(error).__name__
            raise UserError(
                f'checkpoint {checkpoint.path} is not of this model: {reason}'
            ) from error
    finally:
        handle.remove()
    (keys,) = found
    own = module.state_dict()
    return Differences(
        [name for name in keys.missing_keys if not is_no_weight(own.get(name))],
        [name for name in keys.unexpected_keys if not is_no_weight(given.get(name))],
        re.findall(r'(?:size mismatch for |parameter named ")([^\s":]+)', text),
    )


def is_no_weight(value: Any) -> bool:
    """Whether a value of a state dict is a table of indices or a count, not a weight."""
    return isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
