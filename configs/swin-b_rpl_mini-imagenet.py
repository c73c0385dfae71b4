# The modified Swin-B with relative positional labels on Mini-ImageNet.
# Table 5, row "Swin-B + RPL": 69.11 / 88.02.
#   tools/dist_train.sh configs/swin-b_rpl_mini-imagenet.py 8
_base_ = './swin-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=1024, grid_size=14),
)
