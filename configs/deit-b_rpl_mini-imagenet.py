# DeiT-B/16 with relative positional labels on Mini-ImageNet.
# Table 5, row "DeiT-B + RPL": 66.85 / 85.21.
#   tools/dist_train.sh configs/deit-b_rpl_mini-imagenet.py 8
_base_ = './deit-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
