import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.utils import build_2d_sincos_position_embedding

from poslabel_mm.errors import UserError
from poslabel_mm.registry import MODELS

POS_ENCODINGS = ('learned', 'sincos', 'none')


@MODELS.register_module()
class PositionalVisionTransformer(VisionTransformer):
    """MMPretrain's ViT with a choice of positional encoding (Table 1).

    State-dict keys are the stock ones. A model without encoding saves no
    ``pos_embed``, so that a model fine-tuned from it keeps its own, and
    passes over the one in a stock checkpoint.

    Args:
        *args: The stock ``VisionTransformer``'s arguments.
        pos_encoding (str): What is added to the patch embeddings:

            - 'learned': the stock learned absolute encoding.
            - 'sincos': fixed 2-D sine-cosine encoding, as MAE uses; the one
              in a checkpoint is passed over.
            - 'none': nothing; the tokens know their place from the
              positional labels alone.

            Defaults to 'learned'.
        **kwargs: The stock ``VisionTransformer``'s arguments.

    Raises:
        UserError: For another ``pos_encoding``.
    """

    def __init__(self, *args, pos_encoding: str = 'learned', **kwargs) -> None:
        if pos_encoding not in POS_ENCODINGS:
            raise UserError(f'pos_encoding={pos_encoding!r} is unknown; '
                             f'choose from {list(POS_ENCODINGS)}')
        super().__init__(*args, **kwargs)
        self.pos_encoding = pos_encoding
        if pos_encoding == 'none':
            # The stock forward pass adds `pos_embed`; zeros that are no
            # parameter and in no checkpoint leave the tokens as they are.
            zeros = torch.zeros_like(self.pos_embed.data)
            del self.pos_embed
            self.register_buffer('pos_embed', zeros, persistent=False)
        elif pos_encoding == 'sincos':
            self.pos_embed.requires_grad = False
            self._fill_sincos()

    def init_weights(self) -> None:
        super().init_weights()
        if self.pos_encoding == 'none':
            self.pos_embed.zero_()
        elif self.pos_encoding == 'sincos':
            self._fill_sincos()

    def _fill_sincos(self) -> None:
        # MMPretrain's function counts the grid column by column, tokens go row
        # by row: its (W, H) is our (H, W).
        H, W = self.patch_resolution
        encoding = build_2d_sincos_position_embedding((W, H), self.embed_dims)
        with torch.no_grad():
            self.pos_embed.zero_()
            self.pos_embed[:, self.num_extra_tokens:].copy_(encoding)

    def _prepare_pos_embed(self, state_dict, prefix, *args, **kwargs) -> None:
        name = prefix + 'pos_embed'
        if self.pos_encoding == 'none':
            state_dict.pop(name, None)
        elif self.pos_encoding == 'sincos' and name in state_dict:
            # A fixed encoding stays what it is, whatever a checkpoint holds.
            state_dict[name] = self.pos_embed.detach().clone()
        else:
            super()._prepare_pos_embed(state_dict, prefix, *args, **kwargs)
