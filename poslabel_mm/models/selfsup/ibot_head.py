from torch import Tensor

from poslabel_mm.models.selfsup.dino_head import DINOHead
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class IBOTHead(DINOHead):
    """iBOT's loss: what a student makes of a masked patch follows a teacher's, which sees it.

    Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer" (ICLR 2022, arXiv
    2111.07832), L_MIM: the cross-entropy of :class:`~.dino_head.DINOHead`, the mean over masked
    patches, with a centre of its own.

    The paper's centre is the moving average of the teacher's outputs for all patches of the global
    crops. Here, as in DINOv2, it is that for masked patches, so that the teacher's projection need
    not run for the others. As masked patches are drawn evenly, the two have the same expectation.

    Args:
        *args: As of :class:`~.dino_head.DINOHead`.
        **kwargs: As of :class:`~.dino_head.DINOHead`.
    """

    def loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Loss of a batch. In training the centre then moves.

        Args:
            student (Tensor): The student's outputs for masked patches, of shape (M, K).
            teacher (Tensor): The teacher's for the same patches, without gradient.

        Returns:
            Tensor: The loss.
        """
        loss = self._cross_entropy(self._target(teacher), self._log(student))
        if self.training:
            self._move_center(teacher)
        return loss
