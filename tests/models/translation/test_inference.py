from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medsynth.models.translation.inference import find_inputs


def test_of_a_folder_of_two_domains_the_images_of_the_given_one_are_translated(tmp_path):
    for name in ("trainA/ct1.png", "trainB/mri1.png", "testA/ct2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    for direction, names in (("source_to_target", ["ct2.png", "ct1.png"]), ("target_to_source", ["mri1.png"])):
        assert [Path(entry["image"]).name for entry in find_inputs(str(tmp_path), direction)] == names
