"""What several modules ask of their arguments."""

from numbers import Integral


def is_whole(value: object) -> bool:
    """Whether it is a whole number, also one of NumPy; True and False are never what was meant."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_whole(least: int, **values: object) -> None:
    """Refuse anything but whole numbers of at least ``least``; the names are used in the message.

    Raises:
        ValueError: if a value is not one.
    """
    for name, value in values.items():
        if not is_whole(value) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
