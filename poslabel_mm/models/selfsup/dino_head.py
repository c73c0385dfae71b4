import torch
from mmengine.dist import all_reduce
from mmengine.model import BaseModule
from torch import Tensor

from poslabel_mm import options
from poslabel_mm.models.schedules import schedule
from poslabel_mm.registry import MODELS

# Beyond any use; a softmax of cosines over 1e-4 is a maximum already.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-4, 1e2


@MODELS.register_module()
class DINOHead(BaseModule):
    """DINO's loss: a student's softmax follows a teacher's, across the views of an image.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021). The
    teacher's outputs are centred, by a moving average of their mean over batches and ranks, and
    sharpened, by a temperature below the student's, so that the two do not agree on one output.
    The loss is the cross-entropy, the mean over images and over all pairs of a teacher's and a
    student's view that are not the same one.

    Args:
        out_channels (int): Outputs K.
        student_temp (float): The student's temperature. Defaults to 0.1.
        teacher_temp (float | dict): The teacher's, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`, such as
            ``dict(type='linear', start=0.04, end=0.07, epochs=30)``. Defaults to 0.04.
        center_momentum (float): What the centre keeps of itself in a step, from 0 to 1. Defaults
            to 0.9.

    Attributes:
        center (Tensor): The centre, of shape (K,); saved in checkpoints.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    center: Tensor

    def __init__(
        self,
        out_channels: int,
        student_temp: float = 0.1,
        teacher_temp: float | dict = 0.04,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.out_channels = options.whole_number('out_channels', out_channels)
        self.student_temp = options.number(
            'student_temp', student_temp, MIN_TEMPERATURE, MAX_TEMPERATURE
        )
        self._teacher_temp = schedule(
            'teacher_temp', teacher_temp, MIN_TEMPERATURE, MAX_TEMPERATURE
        )
        self.center_momentum = options.number('center_momentum', center_momentum, 0, 1)
        self.register_buffer('center', torch.zeros(self.out_channels))

    @property
    def teacher_temp(self) -> float:
        """The teacher's temperature, at the present iteration where it follows a schedule."""
        return self._teacher_temp()

    def loss(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Loss of a batch. In training the centre then moves.

        Args:
            student (list[Tensor]): The student's outputs (B, K) for each of V views.
            teacher (list[Tensor]): The teacher's, without gradient, for the first of them.

        Returns:
            Tensor: The loss.
        """
        targets = [self._target(output) for output in teacher]
        logs = [self._log(output) for output in student]
        terms = [
            self._cross_entropy(target, log)
            for i, target in enumerate(targets)
            for j, log in enumerate(logs)
            if i != j
        ]
        if self.training:
            self._move_center(torch.cat(teacher))
        return sum(terms) / len(terms)

    def _target(self, teacher: Tensor) -> Tensor:
        """The teacher's probabilities (..., K), centred and sharpened."""
        return ((_precise(teacher.detach()) - self.center) / self.teacher_temp).softmax(-1)

    def _log(self, student: Tensor) -> Tensor:
        """The logarithm of the student's probabilities (..., K)."""
        return (_precise(student) / self.student_temp).log_softmax(-1)

    @staticmethod
    def _cross_entropy(target: Tensor, log: Tensor) -> Tensor:
        return -(target * log).sum(dim=-1).mean()

    @torch.no_grad()
    def _move_center(self, outputs: Tensor) -> None:
        """Move the centre towards the mean of the teacher's outputs (B, K)."""
        mean = _precise(outputs).mean(dim=0)
        all_reduce(mean, 'mean')
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_momentum)


def _precise(outputs: Tensor) -> Tensor:
    """Outputs in float32 at least."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
