# ViT-B/16 at the 384 px that Sec. 4.1 names for it: the baseline.
#   tools/dist_train.sh configs/vit-b_384px_in1k.py 8
_base_ = './vit-b_in1k.py'

model = dict(backbone=dict(img_size=384))

train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=384)  # RandomResizedCrop
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=384)  # ResizeEdge
test_pipeline[2].update(crop_size=384)  # CenterCrop

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
