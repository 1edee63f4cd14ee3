"""What a shell offers when the user presses Tab."""

from reforg.bench.peers import GROUP
from reforg.catalog.names import list_models
from reforg.config import DTYPES
from reforg.models.backend import installed


def model_names(incomplete: str) -> list[str]:
    """Names of models that begin so."""
    return [name for name in list_models() if name.startswith(incomplete)]


def backends(incomplete: str) -> list[str]:
    """Names of installed backends that begin so."""
    return [name for name in sorted(installed()) if name.startswith(incomplete)]


def dtypes(incomplete: str) -> list[str]:
    """Names of dtypes that begin so."""
    return [name for name in DTYPES if name.startswith(incomplete)]


def peers(incomplete: str) -> list[str]:
    """Names of installed peers that begin so."""
    return [name for name in sorted(installed(GROUP)) if name.startswith(incomplete)]
