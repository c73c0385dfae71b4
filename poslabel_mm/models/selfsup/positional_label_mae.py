from mmpretrain.models.selfsup import MAE

from poslabel_mm.models.selfsup.masked_labels import ShuffledLabels
from poslabel_mm.registry import MODELS


@MODELS.register_module()
class PositionalLabelMAE(ShuffledLabels, MAE):
    """MMPretrain's MAE, trained with positional labels (Sec. 3.3, Fig. 4).

    The position heads read the encoder's tokens of the visible patches, after
    its final norm and before the mask tokens join them; a label is the place
    of the patch in the whole grid. Decoder and reconstruction are the stock
    ones. MAE-HiViT is this algorithm with an encoder of type ``MAEHiViT``, whose
    tokens, having no final norm, are read through a layer norm without
    parameters.

    With ``PositionalMAEViT`` or ``PositionalMAEHiViT`` the patch grid need not
    be square: decoder and target follow it.

    While training, ``loss`` returns ``loss_recon`` and what every position
    head returns (``loss_apl``, ``apl_acc``, ``loss_rpl``, ``rpl_acc``). With
    ``mask_ratio=0`` there is nothing to reconstruct, and ``loss_recon`` is 0.

    Args:
        *args: The stock ``MAE``'s arguments.
        pos_head (dict | list[dict], optional): One or several position heads.
            Defaults to None: the stock ``MAE``.
        **kwargs: The stock ``MAE``'s arguments.

    Raises:
        UserError: If ``backbone.mask_ratio`` leaves the heads no visible
            patch; if the encoder wants a square grid, or the decoder is built
            for another number of patches.

    Example:
        >>> model = dict(
        ...     type='poslabel_mm.PositionalLabelMAE',
        ...     backbone=dict(type='poslabel_mm.PositionalMAEViT',
        ...                   pos_encoding='none'),
        ...     pos_head=dict(type='poslabel_mm.PositionalLabelHead',
        ...                   in_channels=768, grid_size=14))
    """
