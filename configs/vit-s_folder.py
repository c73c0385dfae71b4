# ViT-S/16 on your own images in class folders: the baseline.
# For one GPU; a CPU trains it too, slowly: seconds for every batch of 32.
#   poslabel convert folder SRC --out data/mine
#   poslabel train vit-s_folder.py --data data/mine
_base_ = ['./_base_/models/vit-s.py', './_base_/folder_100e.py']

model = dict(head=dict(num_classes=2))  # --data reads the number from the folder
