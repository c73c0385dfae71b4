# ViT-B/16 with absolute positional labels, its images cropped but not flipped.
# Table 3, row "crop + APL": 78.54 / 93.13.
#   tools/dist_train.sh configs/vit-b_apl_noflip_in1k.py 8
_base_ = './vit-b_apl_in1k.py'

train_pipeline = _base_.train_pipeline
del train_pipeline[2]  # RandomFlip

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
