import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poslabel_mm.models.heads.base_head import DEFAULT_INIT, check_size
from poslabel_mm.models.heads.base_position_head import width_or
from poslabel_mm.models.heads.base_view_head import BaseViewHead
from poslabel_mm.models.random_state import independent_random_state
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens import ViewPredictions
from poslabel_mm.tokens.views import Views, view_offsets


@MODELS.register_module()
class ViewOffsetHead(BaseViewHead):
    """Predicts where one view of an image lies in another one's frame, and how large it is.

    For self-supervised algorithms that compare views (arXiv 2605.09963). From the mean patch
    tokens of every ordered pair of views an MLP predicts position and size of the first as the
    second sees it (:func:`poslabel_mm.tokens.views.view_offsets`); the loss is smooth L1, the
    mean over pairs and the four numbers.

    Args:
        in_channels (int): Channels C of a patch token.
        hidden_channels (int, optional): Width of the MLP's hidden layer. Defaults to C.
        loss_weight (float | dict): What the loss is multiplied by, or a schedule of it, see
            :func:`poslabel_mm.models.schedules.schedule`. Defaults to 0.5.
        init_cfg (dict | list[dict], optional): MMEngine initialisation. Defaults to a truncated
            normal of standard deviation 0.02 with zero biases.

    Raises:
        UserError: Naming the option that is of the wrong type or out of range.
    """

    loss_name = 'loss_view_offset'

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        loss_weight: float | dict = 0.5,
        init_cfg: dict | list[dict] | None = DEFAULT_INIT,
    ) -> None:
        super().__init__(in_channels, loss_weight, init_cfg)
        C = self.in_channels
        hidden = width_or(C, 'hidden_channels', hidden_channels)
        check_size((2 * C + 4) * hidden, dict(in_channels=C, hidden_channels=hidden))
        with independent_random_state(type(self).__name__):
            self.fc1 = nn.Linear(2 * C, hidden)
            self.fc2 = nn.Linear(hidden, 4)

    def forward(self, means: Tensor) -> Tensor:
        """Predict position and size of every view in every other one's frame.

        Args:
            means (Tensor): The mean patch tokens, of shape (B, V, C).

        Returns:
            Tensor: Shape (B, V, V, 4), entry [b, i, j] is view i as seen from view j.
        """
        V = means.shape[1]
        first, second = means.unsqueeze(2), means.unsqueeze(1)
        pairs = torch.cat([first.expand(-1, -1, V, -1), second.expand(-1, V, -1, -1)], dim=-1)
        return self.fc2(F.gelu(self.fc1(pairs)))

    def _means(self, views: Views) -> Tensor:
        """The mean patch tokens of every view, (B, V, C)."""
        self.check(views)
        return torch.stack([tokens.mean(dim=1) for tokens, *_ in views.tokens], dim=1)

    def loss(self, views: Views) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            views (Views): Tokens (B, n, C) of each of V views, and their boxes.

        Returns:
            dict[str, Tensor]: ``loss_view_offset``; ``view_offset_err``, the mean distance from
            where the view's centre is, in heights and widths of the other view; and
            ``view_scale_err``, the mean factor, minus 1, by which its height and width are wrong,
            in percent.

        Raises:
            UserError: If there is one view alone, or the tokens have another width than the head
                was built for.
        """
        means = self._means(views)
        V = means.shape[1]
        # No view is predicted from itself.
        others = ~torch.eye(V, dtype=torch.bool, device=means.device)
        truth = view_offsets(views.boxes.to(means.device))[:, others]  # [B, V * (V - 1), 4]
        predicted = self(means)[:, others]
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        loss = F.smooth_l1_loss(predicted, truth.to(predicted.dtype))
        with torch.no_grad():
            missed = (predicted - truth).abs()
            offset_err = missed[..., :2].norm(dim=-1).mean()
            scale_err = missed[..., 2:].mean().expm1() * 100
        return {
            self.loss_name: self.loss_weight * loss,
            'view_offset_err': offset_err,
            'view_scale_err': scale_err,
        }

    @torch.no_grad()
    def predict(self, views: Views) -> ViewPredictions:
        """Predict position and size of every view in every other one's frame.

        Args:
            views (Views): Tokens (B, n, C) of each of V views, and their boxes.

        Returns:
            ViewPredictions: Offsets of all ordered pairs, beside the boxes.

        Raises:
            UserError: As ``loss`` does.
        """
        means = self._means(views)
        V = means.shape[1]
        itself = torch.eye(V, dtype=torch.bool, device=means.device).unsqueeze(-1)
        offsets = self(means).float().masked_fill(itself, 0)
        return ViewPredictions(views.boxes.to(means.device), offsets)
