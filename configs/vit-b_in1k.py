# ViT-B/16 with its learned positional encoding, 224 px: the baseline.
# Table 1, row "ViT-B + PE": 77.91 / 92.48.
# Table 3, row "crop + RHF": 77.91 / 92.48.
# Table 4, row "ViT-B": 77.91 / 92.48.
# Table 7, row "ViT-B": 77.91.
# Sec. 4.1 names 384 px, Sec. 3.1 the 196 patches of 224: vit-b_384px_in1k.py is 384.
#   tools/dist_train.sh configs/vit-b_in1k.py 8
_base_ = ['./_base_/models/vit-b.py', './_base_/imagenet_300e.py']
