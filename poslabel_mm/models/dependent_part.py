from torch import nn


class DependentPart:
    """A part of a model that depends on the others, mixed in to a module.

    ``poslabel train`` checks it once the model is built and before a run begins.
    """

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model that the part does not fit.

        Args:
            model (nn.Module): The model that this is a part of. Its weights may have no memory.

        Raises:
            UserError: If it does not fit.
        """
        raise NotImplementedError
