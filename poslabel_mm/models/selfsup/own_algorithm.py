from mmpretrain.models.selfsup import BaseSelfSupervisor

from poslabel_mm.models.position_heads import build_part


class OwnAlgorithm(BaseSelfSupervisor):
    """Base of the self-supervised algorithms that MMPretrain does not have.

    Its parts may be of poslabel_mm, and an option that one refuses is named by its whole key.

    Args:
        backbone (dict): The backbone.
        neck (dict): What stands between the backbone and the head.
        head (dict): What has the loss.
        **kwargs: The other arguments of MMPretrain's ``BaseSelfSupervisor``.

    Raises:
        UserError: If a part is missing or refuses an option.
    """

    def __init__(self, backbone: dict, neck: dict, head: dict, **kwargs) -> None:
        parts = dict(backbone=backbone, neck=neck, head=head)
        super().__init__(
            **{name: build_part(part, f'model.{name}') for name, part in parts.items()}, **kwargs
        )
