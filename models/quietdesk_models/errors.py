"""Every error of the model catalogue and the weights.

    ModelsError
    ├── UnknownModelError      no model of that name; carries the nearest names
    ├── MissingWeightsError    a model of the catalogue that is not on this machine
    ├── BadFileError           no file, no GGUF, cut short, or not a model
    ├── DownloadError          the download did not come to its end
    │   └── ChecksumError      what came is not what was asked for
    └── QuantiseError          no requantised file was made

This package stands below `quietdesk` and knows nothing of its errors; the SDK translates.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class ModelsError(Exception):
    """The root: catch it to catch everything that this package raises on purpose."""


class UnknownModelError(ModelsError):
    """There is no model of that name, and no file either.

    Attributes:
        name: The name as given.
        known: All names there are.
        nearest: Known names that look like it, best first.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        self.nearest = tuple(get_close_matches(name.lower(), self.known, n=3, cutoff=0.4))
        sentence = f"There is no model {name!r}."
        if self.nearest:
            sentence += f" Did you mean {' or '.join(map(repr, self.nearest))}?"
        super().__init__(
            f"{sentence} `quietdesk models list` shows all; a path to a GGUF works too."
        )


class MissingWeightsError(ModelsError):
    """The catalogue knows the model, and its file is not on this machine.

    Attributes:
        name: The model's name in the catalogue.
    """

    def __init__(self, name: str, hint: str) -> None:
        self.name = name
        super().__init__(f"The model {name!r} is not on this machine. {hint}")


class BadFileError(ModelsError):
    """The file is missing, is no GGUF, is cut short, or is not a model.

    Attributes:
        path: The file.
        reason: What is wrong with it, as a sentence.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"Cannot use the model file {self.path!r}: {reason}")


class DownloadError(ModelsError):
    """The download did not come to its end; what came so far is kept and resumed next time."""


class ChecksumError(DownloadError):
    """What came is not what was asked for; it was thrown away.

    Attributes:
        expected: The sha256 that was asked for.
        actual: The sha256 of what came.
    """

    def __init__(self, name: str, expected: str, actual: str) -> None:
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"The file of {name!r} has sha256 {actual}, and {expected} was expected. It was "
            "changed on its way or at its source, and was not kept. Try again; if it stays so, "
            "do not use it."
        )


class QuantiseError(ModelsError):
    """No requantised file was made; nothing that was there before has changed."""
