# ViT-S/16 with relative positional labels on your own images in class folders.
# For one GPU; a CPU trains it too, slowly: seconds for every batch of 32.
#   poslabel convert folder SRC --out data/mine
#   poslabel train vit-s_rpl_folder.py --data data/mine
_base_ = './vit-s_folder.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=384, grid_size=14),
)
