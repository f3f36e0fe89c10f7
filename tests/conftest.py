"""What tests of several rooms need: the tiny models and the bundled one."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from quietdesk_models import weights
from quietdesk_models.catalog import STARTER
from quietdesk_models.errors import MissingWeightsError

# The same examples each time, so that a check's outcome is the code's alone. To look for new ones:
# `pytest --hypothesis-profile=explore`.
settings.register_profile("check", derandomize=True, print_blob=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile("check")


@pytest.fixture(autouse=True, scope="session")
def _no_background_work() -> Iterator[None]:
    """Opening the bundled model does not requantise it: that is tested where it is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QUIETDESK_QUANTISE", "false")
        yield


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny GGUF models by architecture; tests/data/make_models.py tells what they are."""
    maker = Path(__file__).parent / "data" / "make_models.py"
    spec = importlib.util.spec_from_file_location("make_models", maker)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models: dict[str, Path] = module.make_all(tmp_path_factory.mktemp("models"))
    return models


@pytest.fixture(scope="session")
def starter_path() -> Path:
    """The bundled model's file; the tests that need it are skipped where it is not installed."""
    try:
        return weights.locate(STARTER)
    except MissingWeightsError as error:
        pytest.skip(str(error))
