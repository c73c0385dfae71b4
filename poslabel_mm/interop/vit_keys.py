"""Names of a ViT's weights: MMPretrain's, and those of timm, DeiT, DINOv2 and MAE."""

from poslabel_mm.interop.key_map import KeyMap

#: timm's layout, which DeiT's, MAE's and DINOv2's own code share.
TIMM_VIT = KeyMap(
    {
        'backbone.cls_token': 'cls_token',
        'backbone.dist_token': 'dist_token',
        'backbone.pos_embed': 'pos_embed',
        'backbone.patch_embed.projection': 'patch_embed.proj',
        'backbone.pre_norm': 'norm_pre',
        'backbone.layers.{i}.ln1': 'blocks.{i}.norm1',
        'backbone.layers.{i}.attn.qkv': 'blocks.{i}.attn.qkv',
        'backbone.layers.{i}.attn.proj': 'blocks.{i}.attn.proj',
        'backbone.layers.{i}.attn.gamma1.weight': 'blocks.{i}.ls1.gamma',
        'backbone.layers.{i}.ln2': 'blocks.{i}.norm2',
        'backbone.layers.{i}.ffn.layers.0.0': 'blocks.{i}.mlp.fc1',
        'backbone.layers.{i}.ffn.layers.1': 'blocks.{i}.mlp.fc2',
        'backbone.layers.{i}.ffn.w12': 'blocks.{i}.mlp.w12',
        'backbone.layers.{i}.ffn.w3': 'blocks.{i}.mlp.w3',
        'backbone.layers.{i}.ffn.gamma2.weight': 'blocks.{i}.ls2.gamma',
        'backbone.ln1': 'norm',
        'backbone.ln2': 'fc_norm',
    }
)

#: Layer scale in DeiT III's own code.
DEIT_III = {
    'backbone.layers.{i}.attn.gamma1.weight': 'blocks.{i}.gamma_1',
    'backbone.layers.{i}.ffn.gamma2.weight': 'blocks.{i}.gamma_2',
}

#: Files whose queries, keys and values are apart.
UNFUSED_QKV = {
    f'backbone.layers.{{i}}.attn.{letter}': f'blocks.{{i}}.attn.{letter}' for letter in 'qkv'
}

#: MAE's decoder, for a config that pre-trains.
MAE_DECODER = {
    'neck.decoder_embed': 'decoder_embed',
    'neck.mask_token': 'mask_token',
    'neck.decoder_pos_embed': 'decoder_pos_embed',
    'neck.decoder_blocks.{i}.ln1': 'decoder_blocks.{i}.norm1',
    'neck.decoder_blocks.{i}.attn.qkv': 'decoder_blocks.{i}.attn.qkv',
    'neck.decoder_blocks.{i}.attn.proj': 'decoder_blocks.{i}.attn.proj',
    'neck.decoder_blocks.{i}.ln2': 'decoder_blocks.{i}.norm2',
    'neck.decoder_blocks.{i}.ffn.layers.0.0': 'decoder_blocks.{i}.mlp.fc1',
    'neck.decoder_blocks.{i}.ffn.layers.1': 'decoder_blocks.{i}.mlp.fc2',
    'neck.ln1': 'decoder_norm',
    'neck.decoder_pred': 'decoder_pred',
}

#: The classifiers of MMPretrain's heads for a ViT; LinearClsHead's where the tokens are averaged.
VIT_HEADS = {
    'head.layers.head': 'head',
    'head.layers.head_dist': 'head_dist',
    'head.fc': 'head',
}
