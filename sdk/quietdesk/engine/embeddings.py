"""Embeddings: texts as vectors, and where they come from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # Naming the type must not cost the import of numpy.
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Vectors of length 1: their products are cosines, -1 to 1."""

    vectors: "NDArray[np.float32]"
    """Shape (n_texts, n_dims), in the order of the texts."""
    model: str
    """The model's name; vectors of different models cannot be compared."""
    pooling: str
    """How a text's tokens became one vector, in words for a reader."""

    @property
    def n_dims(self) -> int:
        """Numbers of each vector."""
        return int(self.vectors.shape[1])
