"""Base of heads that compare the views of an image."""

from poslabel_mm.errors import UserError
from poslabel_mm.models.heads.base_head import BaseHead
from poslabel_mm.tokens.views import Views


class BaseViewHead(BaseHead):
    """A head whose ``loss`` takes :class:`~poslabel_mm.tokens.views.Views`.

    The arguments are those of :class:`BaseHead`.
    """

    def check(self, views: Views) -> None:
        """Refuse views that cannot be compared.

        Args:
            views (Views): Tokens (B, n, C) of each of V views, and their boxes.

        Raises:
            UserError: If there are fewer than two, or the tokens have another width than this
                head was built for.
        """
        if len(views.tokens) < 2:
            raise UserError(
                f'{type(self).__name__} compares the views of an image, and got '
                f'{len(views.tokens)}: set num_views of the RecordedMultiView to 2 in all or more'
            )
        for tokens, *_ in views.tokens:
            self.check_width(tokens)
