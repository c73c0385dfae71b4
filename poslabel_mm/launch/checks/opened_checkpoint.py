"""A checkpoint file, opened to be compared with a model."""

from dataclasses import dataclass

from poslabel_mm.errors import UserError
from poslabel_mm.stack.checkpoint_file import check_records, read


@dataclass(frozen=True)
class Checkpoint:
    """The content of an intact checkpoint file, a dict.

    Args:
        path (str): The path, as the user wrote it.
        content (dict): The content of the file. Tensors stay on the disk until they are used.
    """

    path: str
    content: dict

    @property
    def weights(self) -> dict:
        """The dict that MMEngine reads the weights from: ``state_dict``, or the whole content."""
        return self.content.get('state_dict', self.content)


def open_checkpoint(path: str) -> Checkpoint:
    """Read a checkpoint and check everything that needs no model.

    Args:
        path (str): Path of the file.

    Raises:
        UserError: If it is unreadable or damaged, or does not hold named weights.
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
    return checkpoint


def is_url(path: str) -> bool:
    """Whether a checkpoint is fetched by MMEngine, and not a local file."""
    return '://' in path
