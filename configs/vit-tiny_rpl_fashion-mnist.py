# The small ViT on Fashion-MNIST with relative positional labels.
#   python tools/train.py configs/vit-tiny_rpl_fashion-mnist.py
_base_ = './vit-tiny_fashion-mnist.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=64, grid_size=7),
)
