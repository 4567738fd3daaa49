"""The real PACS images where they are, else drawn ones; in a cache of decoded images."""

import os
import sys
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .. import files
from ..datasets.pacs import PACS
from ..folders import subfolders

DRAWN = 60  # per class and domain, where there are no real images


@cache
def data_dir() -> Path:
    """The folder that holds PACS: $DGBENCH_DATA, or that of drawn images; says which."""
    path = Path(os.environ.get("DGBENCH_DATA", ""))
    found, kind = (path, "real") if subfolders(path / "PACS") else (_drawn(), "drawn, see DGBENCH_DATA")
    print(f"PACS: {found} ({kind})", file=sys.stderr)
    return found


def _drawn() -> Path:
    """PACS's folders, with smooth images of 227 x 227 pixels, in the folder of caches."""
    root = files.cache_folder("bench")
    r = np.random.default_rng(0)
    for domain in PACS.domains:
        for label in range(PACS.num_classes):
            folder = root / "PACS" / domain / f"class {label}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(DRAWN):
                if not (folder / f"{i}.jpg").exists():
                    pixels = Image.fromarray(r.integers(0, 256, (24, 24, 3), dtype=np.uint8))
                    pixels.resize((227, 227), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    return root
