"""Numbers that change while a model trains: a loss weight, the width of a target.

They depend on the iteration alone, which a resumed run goes on counting: it has the values of the
run that was not stopped.
"""

import math
from abc import ABC, abstractmethod

import torch
from mmengine.logging import MessageHub

from poslabel_mm import options

MAX_EPOCHS = 1e6


def schedule(key: str, value: float | dict, least: float, most: float) -> 'Schedule':
    """The schedule that an option describes.

    Args:
        key (str): The option's name, for messages.
        value (float | dict): A number, which stays what it is, or a dict with the ``type``
            'constant', 'linear', 'cosine' or 'warmup' and the arguments of
            :class:`ConstantSchedule`, :class:`LinearSchedule`, :class:`CosineSchedule` or
            :class:`WarmUpSchedule`.
        least (float): The smallest value that is accepted.
        most (float): The largest.

    Returns:
        Schedule: Call it for the present value.

    Raises:
        OptionError: Naming what is of the wrong type, out of range, or unknown.
    """
    if not isinstance(value, dict):
        return ConstantSchedule(options.number(key, value, least, most))
    built = options.part(key, value, SCHEDULES)
    with options.within(key):
        built.check(least, most)
    return built


class Schedule(ABC):
    """A number that is a function of the epoch, fractions of one included."""

    def __call__(self) -> float:
        """The value at the present iteration of the training run, or at its first outside one."""
        return self.at(*epoch_and_length())

    @abstractmethod
    def at(self, epoch: float, max_epochs: float) -> float:
        """The value at a time.

        Args:
            epoch (float): Epochs that were trained, 0.5 in the middle of the first.
            max_epochs (float): The epochs of the run.

        Returns:
            float: The value.
        """

    @abstractmethod
    def check(self, least: float, most: float) -> None:
        """Refuse values out of a range.

        Raises:
            OptionError: Naming the argument.
        """


@torch.compiler.disable
def epoch_and_length() -> tuple[float, float]:
    """Epochs that were trained, fractions of one included, and the epochs of the run.

    The Runner writes them down before every iteration. A loop that counts iterations is one epoch.

    Returns:
        tuple[float, float]: Both; 0 epochs trained outside of a run.
    """
    hub = MessageHub.get_current_instance().runtime_info
    iteration, max_iters = hub.get('iter', 0), hub.get('max_iters', 0)
    max_epochs = hub.get('max_epochs', 1)
    # In this order, for an epoch's first iteration to be at a whole number.
    return (iteration * max_epochs / max_iters if max_iters else 0.0), max_epochs


@torch.compiler.disable
def in_first_epochs(epochs: float) -> bool:
    """Whether the run is in its first epochs.

    Args:
        epochs (float): How many they are, fractions of one included.

    Returns:
        bool: Also False outside of a run, and in a run that is not longer.
    """
    hub = MessageHub.get_current_instance().runtime_info
    if not {'iter', 'max_iters', 'max_epochs'} <= hub.keys():
        return False
    epoch, max_epochs = epoch_and_length()
    return epoch < epochs < max_epochs


class ConstantSchedule(Schedule):
    """A number that stays what it is.

    Args:
        value (float): The number.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self) -> float:
        return self.value

    def at(self, epoch: float, max_epochs: float) -> float:
        return self.value

    def check(self, least: float, most: float) -> None:
        self.value = options.number('value', self.value, least, most)


class LinearSchedule(Schedule):
    """From one number to another, in a straight line.

    Args:
        start (float): The value before ``begin`` and there.
        end (float): The value from ``begin + epochs`` on.
        begin (float): The epoch where it leaves ``start``. Defaults to 0.
        epochs (float, optional): The epochs that it takes. Defaults to None, what is left of the
            run.
    """

    def __init__(
        self, start: float, end: float, begin: float = 0, epochs: float | None = None
    ) -> None:
        self.start, self.end = start, end
        self.begin = options.number('begin', begin, 0, MAX_EPOCHS)
        if epochs is not None:
            epochs = options.number('epochs', epochs, 0, MAX_EPOCHS)
        self.epochs = epochs

    def check(self, least: float, most: float) -> None:
        self.start = options.number('start', self.start, least, most)
        self.end = options.number('end', self.end, least, most)

    def at(self, epoch: float, max_epochs: float) -> float:
        done = epoch - self.begin
        length = max_epochs - self.begin if self.epochs is None else self.epochs
        if done <= 0 and length > 0 or done < 0:
            return self.start
        if done >= length:
            return self.end
        return self.start + (self.end - self.start) * self.eased(done / length)

    def eased(self, part: float) -> float:
        """How much of the way is done where this part (0 to 1) of the time has passed."""
        return part


class CosineSchedule(LinearSchedule):
    """From one number to another, along half a period of a cosine.

    The arguments are those of :class:`LinearSchedule`.
    """

    def eased(self, part: float) -> float:
        return (1 - math.cos(math.pi * part)) / 2


class WarmUpSchedule(Schedule):
    """Another schedule's value, times a factor that rises from 0 to 1 in a straight line.

    Args:
        epochs (float): The epochs that the factor takes to 1, from the beginning of the run.
        then (float | dict): A number, or another schedule.
    """

    def __init__(self, epochs: float, then: float | dict) -> None:
        self.epochs = options.number('epochs', epochs, 0, MAX_EPOCHS)
        self.then = then

    def check(self, least: float, most: float) -> None:
        self.then = schedule('then', self.then, least, most)

    def at(self, epoch: float, max_epochs: float) -> float:
        value = self.then.at(epoch, max_epochs)
        return value if epoch >= self.epochs else value * (epoch / self.epochs)


SCHEDULES = dict(
    constant=ConstantSchedule,
    linear=LinearSchedule,
    cosine=CosineSchedule,
    warmup=WarmUpSchedule,
)
