# ViT-B/16 with relative positional labels, its images cropped but not flipped.
# Table 3, row "crop + RPL": 78.26 / 92.95.
#   tools/dist_train.sh configs/vit-b_rpl_noflip_in1k.py 8
_base_ = './vit-b_rpl_in1k.py'

train_pipeline = _base_.train_pipeline
del train_pipeline[2]  # RandomFlip

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
