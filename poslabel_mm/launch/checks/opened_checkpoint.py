"""A checkpoint file, opened to be compared with a model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.wording import first_names
from poslabel_mm.stack.checkpoint_file import check_records, read


@dataclass(frozen=True)
class Checkpoint:
    """The content of an intact checkpoint file, a dict.

    Args:
        path (str): As the user named it.
        content (dict): What the file holds. Tensors stay on the disk until they are used.
    """

    path: str
    content: dict

    @property
    def weights(self) -> dict:
        """What MMEngine reads the weights from: ``state_dict``, or the whole content."""
        return self.content.get('state_dict', self.content)


def open_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint and check everything that needs no model.

    Args:
        path (str): Path of the file.

    Raises:
        UserError: If it is unreadable or damaged, if it does not hold named weights, or if NaN or
            infinity is among them.
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
    """Check the averaged weights (EMA), which a resumed run goes on averaging.

    Args:
        checkpoint (Checkpoint): The checkpoint; without averaged weights nothing is checked.

    Raises:
        UserError: If there is NaN or infinity among them.
    """
    averaged = checkpoint.content.get('ema_state_dict')
    if isinstance(averaged, dict):
        _check_finite(
            checkpoint.path, {f'ema_state_dict.{name}': value for name, value in averaged.items()}
        )


def _check_finite(path: str, weights: dict) -> None:
    non_finite = [name for name, value in weights.items() if _has_non_finite(name, value)]
    if non_finite:
        raise UserError(
            f'checkpoint {path} holds NaN or infinity in {first_names(non_finite)}: its training '
            'had failed; take an earlier one'
        )


def _has_non_finite(name: str, value: Any) -> bool:
    if not isinstance(value, Tensor) or value.numel() == 0 or 'attn_mask' in name:
        return False
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return False
    # The extremes are NaN if a value is; this takes a tenth of isfinite's time.
    return not torch.stack(value.aminmax()).isfinite().all()


def is_url(path: str) -> bool:
    """Whether a checkpoint is fetched by MMEngine, and not a local file."""
    return '://' in path
