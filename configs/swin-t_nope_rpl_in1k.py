# The modified Swin-T, relative positional labels in place of an encoding.
# Table 2, row "Swin-T + RPL": 81.15 / 95.30.
#   tools/dist_train.sh configs/swin-t_nope_rpl_in1k.py 8
_base_ = './swin-t_nope_in1k.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
