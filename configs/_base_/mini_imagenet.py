# Mini-ImageNet: 100 classes of ImageNet, 500 images each to train on and 100
# to test, in the folders that tools/dataset_converters/mini_imagenet.py makes.
# Swin's augmentation at 224 px, as on ImageNet.
# 50,000 images / (32 x 8 GPUs) = 196 iterations an epoch.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

dataset_type = 'CustomDataset'  # a class is a folder
data_root = 'data/mini_imagenet'
data_preprocessor = dict(num_classes=100)

train_dataloader = dict(
    batch_size=32,  # x 8 GPUs = 256
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        data_prefix='train',
        pipeline=_base_.train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type=dataset_type,
        data_root=data_root,
        data_prefix='test',
        test_mode=True,
        pipeline=_base_.test_pipeline,
    )
)
test_dataloader = val_dataloader
