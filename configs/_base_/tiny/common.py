# What every config of `tools/reproduce.py --scale tiny` shares: 256 images to
# train on, 8 iterations an epoch, and 256 to test on.
images = 256
loader = dict(num_workers=0, persistent_workers=False)  # images in memory

train_dataloader = dict(batch_size=32, dataset=dict(indices=images), **loader)
val_dataloader = dict(batch_size=128, dataset=dict(indices=images), **loader)
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=1))
