"""Predicted positions, in the one form that metrics and pictures read.

Shape letters: B images, V views and n tokens of an image, (H, W) patch grid, N = H·W places in
row-major order. Rows and columns are in patches, counted from 0 at the top left patch's centre.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from poslabel_mm.tokens.labels import GridShape, rows_and_columns
from poslabel_mm.tokens.views import view_offsets


class PlacePredictions(NamedTuple):
    """Where a head predicts that each patch sits.

    Attributes:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        true_places (Tensor): int64 (B, n), the flattened places where the patches are.
        coordinates (Tensor): float32 (B, n, 2), predicted row and column in patches. They may lie
            between two patches or outside the grid where a head regresses them.
        probabilities (Tensor, optional): float32 (B, n, N), how probable each place is. None for
            heads that predict coordinates alone.
    """

    grid_shape: GridShape
    true_places: Tensor
    coordinates: Tensor
    probabilities: Tensor | None = None

    def places(self) -> Tensor:
        """The predicted places, the most probable or the nearest ones.

        Returns:
            Tensor: int64 (B, n), values in [0, N).
        """
        if self.probabilities is not None:
            return self.probabilities.argmax(dim=-1)
        H, W = self.grid_shape
        last = torch.tensor([H - 1, W - 1], device=self.coordinates.device)
        row, col = self.coordinates.round().clamp(min=0).minimum(last).long().unbind(-1)
        return row * W + col

    def costs(self) -> Tensor:
        """What it costs to put each patch at each place, for an optimal assignment.

        Returns:
            Tensor: float32 (B, n, N), −log p, or the squared distance in patches where a head
            predicts coordinates alone.
        """
        if self.probabilities is not None:
            tiny = torch.finfo(self.probabilities.dtype).tiny
            return -self.probabilities.clamp(min=tiny).log()
        H, W = self.grid_shape
        places = torch.arange(H * W, device=self.coordinates.device)
        centres = rows_and_columns(places, self.grid_shape).to(self.coordinates.dtype)
        return (self.coordinates.unsqueeze(-2) - centres).square().sum(dim=-1)


class OffsetPredictions(NamedTuple):
    """How a head predicts that each ordered pair of patches lies.

    Attributes:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        true_places (Tensor): int64 (B, n), the flattened places where the patches are.
        offsets (Tensor): float32 (B, n, n, 2). Entry [b, i, j] is the predicted row and column of
            patch i minus those of patch j, in patches.
        probabilities (Tensor, optional): float32 (B, n, n), how probable that offset is. None for
            heads that predict offsets alone.
    """

    grid_shape: GridShape
    true_places: Tensor
    offsets: Tensor
    probabilities: Tensor | None = None

    def true_offsets(self) -> Tensor:
        """The offsets of the true places.

        Returns:
            Tensor: int64 (B, n, n, 2), entry [b, i, j] is patch i minus patch j.
        """
        place = rows_and_columns(self.true_places, self.grid_shape)
        return place.unsqueeze(2) - place.unsqueeze(1)

    def to_places(self) -> PlacePredictions:
        """The places that fit the offsets best, in the least-squares sense.

        Offsets leave the common shift of an image open: it is set so that the mean place is that
        of the patches that are there.

        Returns:
            PlacePredictions: With coordinates and without probabilities.
        """
        centre = rows_and_columns(self.true_places, self.grid_shape).float().mean(1, keepdim=True)
        # Offsets need not be antisymmetric: those from a patch and to it count alike.
        coordinates = (self.offsets.mean(dim=2) - self.offsets.mean(dim=1)) / 2
        return PlacePredictions(self.grid_shape, self.true_places, coordinates + centre)


class SwapPredictions(NamedTuple):
    """Which patches a head predicts to have the positional encoding of another place.

    Attributes:
        grid_shape (tuple[int, int]): The patch grid (H, W).
        true_places (Tensor): int64 (B, n), the flattened places where the patches are.
        swapped (Tensor): bool (B, n), which patches have such an encoding. In evaluation none.
        probabilities (Tensor): float32 (B, n), how probable it is of each.
    """

    grid_shape: GridShape
    true_places: Tensor
    swapped: Tensor
    probabilities: Tensor


class ViewPredictions(NamedTuple):
    """How a head predicts that each ordered pair of views of an image lies.

    Attributes:
        boxes (Tensor): float32 (B, V, 4), where the views are: row and column of the centre,
            height and width, in pixels of the image (:mod:`poslabel_mm.tokens.views`).
        offsets (Tensor): float32 (B, V, V, 4). Entry [b, i, j] is the predicted position and size
            of view i as seen from view j, as :func:`poslabel_mm.tokens.views.view_offsets` has
            them; zero for a view and itself.
    """

    boxes: Tensor
    offsets: Tensor

    def true_offsets(self) -> Tensor:
        """The offsets of the boxes.

        Returns:
            Tensor: float32 (B, V, V, 4), entry [b, i, j] is view i as seen from view j.
        """
        return view_offsets(self.boxes)

    def to_boxes(self) -> Tensor:
        """Where the offsets put each view in the image.

        Returns:
            Tensor: float32 (B, V, V, 4), entry [b, i, j] is the box of view i, put there from the
            box of view j. Heights and widths are positive: that i is mirrored is not predicted.
        """
        centre, size = self.boxes.unsqueeze(1).split(2, dim=-1)
        shift, log_ratio = self.offsets.split(2, dim=-1)
        return torch.cat([centre + shift * size, size.abs() * log_ratio.exp()], dim=-1)
