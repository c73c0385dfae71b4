# NesT-B with relative positional labels on Mini-ImageNet.
# Table 5, row "NesT-B + RPL": 69.56 / 88.67.
#   tools/dist_train.sh configs/nest-b_rpl_mini-imagenet.py 8
_base_ = './nest-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=512, grid_size=14),
)
