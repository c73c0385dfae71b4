"""A timm ViT learns digits and where its patches sit, with torch alone in the loop.

python examples/timm_vit.py
"""

import torch
from sklearn.datasets import load_digits

from poslabel_mm.models import PositionalLabelHead
from poslabel_mm.tokens import PatchTokenReader

# isort: split
import timm  # import poslabel_mm first: it makes up for operators that torchvision may lack

images, classes = map(torch.tensor, load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16
vit = dict(img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=2, num_heads=4)
model = timm.create_model('vit_tiny_patch16_224', num_classes=10, **vit)
head, reader = PositionalLabelHead(in_channels=64, grid_size=4), PatchTokenReader(model)
optimizer = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=1e-3)
for epoch in range(1, 6):
    for batch in torch.randperm(len(images)).split(50):
        with reader:  # reads the patch tokens while the model runs
            loss = torch.nn.functional.cross_entropy(model(images[batch]), classes[batch])
        labels = head.loss(reader.take())
        optimizer.zero_grad()
        (loss + labels['loss_apl']).backward()
        optimizer.step()
    print(f'epoch {epoch}: loss {loss:.3f}, {labels["apl_acc"]:.1f} % of the places')
