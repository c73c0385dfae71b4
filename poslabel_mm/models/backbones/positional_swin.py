import math

from mmengine.model import BaseModule
from mmpretrain.models.backbones import SwinTransformer
from mmpretrain.models.utils import (
    ConditionalPositionEncoding,
    PatchMerging,
    ShiftWindowMSA,
    WindowMSA,
)
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.backbones.encoding_grid import keep_grid
from poslabel_mm.models.backbones.relative_position_bias import resize_bias_table
from poslabel_mm.models.pretrained import loads_checkpoint
from poslabel_mm.registry import MODELS

POS_ENCODINGS = ('cpe', 'rpb', 'none')


class WindowMSAWithoutBias(BaseModule):
    """Window self-attention without a relative position bias.

    Args:
        msa (WindowMSA): Whose layers are taken over, all but the bias.
    """

    def __init__(self, msa: WindowMSA) -> None:
        super().__init__(msa.init_cfg)
        self.num_heads = msa.num_heads
        self.scale = msa.scale
        self.qkv = msa.qkv
        self.attn_drop = msa.attn_drop
        self.proj = msa.proj
        self.proj_drop = msa.proj_drop

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x (Tensor): Windows of shape (B * windows, n, C).
            mask (Tensor, optional): Added to the scores, of shape
                (windows, n, n); -100 where two tokens of a shifted window do
                not belong together.

        Returns:
            Tensor: Shape (B * windows, n, C).
        """
        B, n, C = x.shape
        q, k, v = self.qkv(x).reshape(B, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        if mask is not None:
            attn = (attn.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)
        attn = self.attn_drop(attn.softmax(-1))
        x = (attn @ v).transpose(1, 2).reshape(B, n, C)
        return self.proj_drop(self.proj(x))


class WholeMapMSA(BaseModule):
    """One attention window over the whole map, whatever its size.

    Args:
        attn (ShiftWindowMSA): Whose layers are taken over.
    """

    def __init__(self, attn: ShiftWindowMSA) -> None:
        super().__init__(attn.init_cfg)
        self.w_msa = attn.w_msa
        self.drop = attn.drop

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        return self.drop(self.w_msa(query))


def _encode_positions(block: nn.Module, inputs: tuple) -> tuple:
    x, hw_shape = inputs
    return block.cpe(x, hw_shape), hw_shape


@MODELS.register_module()
class PositionalSwinTransformer(SwinTransformer):
    """MMPretrain's Swin with the paper's two changes (Fig. 3b, Table 2).

    With ``last_downsample=False`` LayerNorm and a linear layer C→2C take the
    place of the last patch merging, so that the last stage runs at H/16 (14×14
    tokens at 224 px), in one window and without shift. With
    ``pos_encoding='rpb'`` and ``last_downsample=True`` it is the stock Swin.

    State-dict keys are the stock ones plus ``stages.*.blocks.*.cpe.*``. A
    stock checkpoint loads. Without the last merging, its weights and the bias
    of the last stage's smaller windows are ignored, and so is all bias
    where there is none here; the bias of windows of another size, as of other
    images, is interpolated. The stock Swin takes a checkpoint of this one
    only if that has 'rpb' and the last merging.

    Args:
        *args: The stock ``SwinTransformer``'s arguments.
        pos_encoding (str): How the tokens come to know their place:

            - 'cpe': conditional positional encoding, a residual 3×3
              depth-wise convolution before every block's first norm.
            - 'rpb': the stock relative position bias.
            - 'none': not at all, but for the windows' borders.

            Defaults to 'cpe'.
        last_downsample (bool): Keep the last patch merging. Without it the
            last stage attends over the whole map of any input; with 'rpb',
            whose table has a fixed size, in windows as large as the map (its
            shorter side) of an ``img_size`` input, padded as in the stock
            model for other sizes; inputs whose map is smaller than the window
            need ``pad_small_map=True``. Defaults to False.
        **kwargs: The stock ``SwinTransformer``'s arguments.

    Raises:
        UserError: For another ``pos_encoding`` or ``last_downsample``, or one
            stage without ``last_downsample``.
    """

    def __init__(
        self, *args, pos_encoding: str = 'cpe', last_downsample: bool = False, **kwargs
    ) -> None:
        options.choice('pos_encoding', pos_encoding, POS_ENCODINGS)
        last_downsample = options.flag('last_downsample', last_downsample)
        super().__init__(*args, **kwargs)
        self.pos_encoding = pos_encoding
        self.last_downsample = last_downsample
        if not last_downsample and len(self.stages) < 2:
            raise options.wrong(
                'last_downsample',
                last_downsample,
                'leaves the last merging '
                'out, and a Swin of one stage has none: set '
                'last_downsample=True',
            )
        if pos_encoding != 'rpb':
            self._remove_relative_position_bias()
        if not last_downsample:
            self._keep_the_last_resolution()
        if pos_encoding == 'cpe':
            self._add_conditional_encoding()
        keep_grid(self, 'absolute_pos_embed')

    def init_weights(self) -> None:
        if loads_checkpoint(self):
            # The stock Swin draws its absolute encoding anew if `init_cfg` is a list.
            BaseModule.init_weights(self)
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> 'PositionalSwinTransformer':
        # The stock Swin returns nothing.
        super().train(mode)
        return self

    def _remove_relative_position_bias(self) -> None:
        for stage in self.stages:
            for block in stage.blocks:
                block.attn.w_msa = WindowMSAWithoutBias(block.attn.w_msa)

    def _keep_the_last_resolution(self) -> None:
        merging = self.stages[-2].downsample
        self._merging_shapes = {key: value.shape for key, value in merging.state_dict().items()}
        # A 1x1 merging: the norm and the linear layer alone.
        self.stages[-2].downsample = PatchMerging(
            merging.in_channels, merging.out_channels, kernel_size=1
        )
        for block in self.stages[-1].blocks:
            if self.pos_encoding == 'rpb':
                self._widen_window(block.attn)
            else:
                block.attn = WholeMapMSA(block.attn)

    def _widen_window(self, attn: ShiftWindowMSA) -> None:
        # Each merging rounds up.
        merged = 2 ** (len(self.stages) - 2)
        side = -(-min(self.patch_resolution) // merged)
        attn.window_size, attn.shift_size = side, 0
        msa = attn.w_msa
        attn.w_msa = WindowMSA(
            msa.embed_dims,
            (side, side),
            msa.num_heads,
            qkv_bias=msa.qkv.bias is not None,
            qk_scale=msa.scale,
            attn_drop=msa.attn_drop.p,
            proj_drop=msa.proj_drop.p,
            init_cfg=msa.init_cfg,
        )

    def _add_conditional_encoding(self) -> None:
        for stage in self.stages:
            for block in stage.blocks:
                block.cpe = ConditionalPositionEncoding(stage.embed_dims, stage.embed_dims)
                block.register_forward_pre_hook(_encode_positions)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs) -> None:
        # As the stock class does for its own checkpoints, but not for those of
        # a subclass.
        version = local_metadata.get('version') or 1
        for name in [n for n in state_dict if n.startswith(prefix)]:
            key = name[len(prefix) :]
            if version < 2 and key.startswith('norm.'):
                renamed = f'{prefix}norm{len(self.stages) - 1}{key[4:]}'
                state_dict[renamed] = state_dict.pop(name)
            elif version < 3 and key.endswith('attn_mask'):
                del state_dict[name]
        self._pass_over_what_is_not_here(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def _pass_over_what_is_not_here(self, state_dict, prefix) -> None:
        last = len(self.stages) - 1
        merging = f'stages.{last - 1}.downsample.'
        own = self.state_dict()
        # Of a stock checkpoint, this model has no room for the last merging
        # and the bias that follows it. Any other shape is an error.
        merged = (
            {}
            if self.last_downsample
            else {prefix + merging + key: shape for key, shape in self._merging_shapes.items()}
        )
        merged = {
            name
            for name, shape in merged.items()
            if name in state_dict and state_dict[name].shape == shape
        }
        for name in [n for n in state_dict if n.startswith(prefix)]:
            key = name[len(prefix) :]
            if '.attn.w_msa.relative_position_' not in key:
                continue
            if key not in own:
                del state_dict[name]
            elif state_dict[name].shape != own[key].shape:
                if merged and key.startswith(f'stages.{last}.'):
                    del state_dict[name]
                elif key.endswith('index'):
                    state_dict[name] = own[key]
                else:
                    table = state_dict[name]
                    state_dict[name] = resize_bias_table(
                        math.isqrt(len(table)), math.isqrt(len(own[key])), table, table.size(1)
                    )
        for name in merged:
            del state_dict[name]
