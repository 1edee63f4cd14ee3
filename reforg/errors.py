"""Everything that a user of reforg can do wrong, one class a kind; each message is one sentence."""

from collections.abc import Iterable

LONGEST = 4000  # characters of a sentence; what it quotes may come from a file that means harm


class ReforgError(Exception):
    """Base of every error that a user can cause. Nothing else is raised on purpose.

    Its message is one line of bounded length: what is quoted in it cannot break the line or steer a terminal.
    """

    def __init__(self, message: str) -> None:
        cut = message if len(message) <= LONGEST else message[: LONGEST - 3] + "..."
        super().__init__(printable(cut))


def printable(text: str) -> str:
    """The text as one line of characters that a terminal and UTF-8 can show."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


class ConfigError(ReforgError):
    """A model name, a config keyword or a call-time argument that cannot be."""


class ShapeError(ReforgError):
    """An array of the wrong rank, size or number of channels."""


class DtypeError(ReforgError):
    """An array of a dtype that the operation does not take."""


class WeightsError(ReforgError):
    """Weights that are missing, left over, wrongly shaped, unreadable or harmful."""


class BackendError(ReforgError):
    """A backend, device or dtype that is not there."""


class ImageError(ReforgError):
    """An image that cannot be read or written."""


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known word nearest to `word`, or an empty string."""
    import difflib  # only where a mistake was made

    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""
