from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve made images of two classes, bright left and bright right, without splits."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for label, columns in (("left", slice(0, 20)), ("right", slice(20, 40))):
        (root / label).mkdir()
        for n in range(6):
            pixels = rng.integers(0, 60, (40, 40, 3), dtype=np.uint8)
            pixels[:, columns] += 150
            Image.fromarray(pixels).save(root / label / f"{n}.png")
    return root
