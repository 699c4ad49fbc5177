"""Pack a trained system as a bundle, as MONAI's model zoo has them: a folder and a zip.

python tools/pack_bundle.py bundles/vaegan --checkpoint runs/vaegan/model.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medsynth.errors import refuse_existing, run_tool
from medsynth.run.model_file import require_model

FORMS = ("torchscript", "onnx")


def main() -> None:
    """Pack, and print the path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="folder of the system, such as bundles/vaegan")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a run")
    parser.add_argument("--output", type=Path, help="folder to write to (default: pack/ beside the checkpoint)")
    parser.add_argument("--evaluation", type=Path, help="metrics.json of this checkpoint's evaluation, for the card")
    parser.add_argument("--export", choices=FORMS, help="write the network alone in this form as well")
    options = parser.parse_args()
    require_model(options.checkpoint)
    output, name = options.output or options.checkpoint.parent / "pack", options.bundle.resolve().name
    for path in (output / name, output / f"{name}.zip"):
        refuse_existing(path, "remove it, or give another --output")
    from medsynth.packaging.packing import inference_command, pack_bundle  # after parsing: help and errors come at once

    folder = pack_bundle(options.bundle, options.checkpoint, options.output, options.evaluation, options.export)
    print(f"written to {folder} and {folder.with_name(folder.name + '.zip')}")
    print(f"to run it: {inference_command(folder)}")


if __name__ == "__main__":
    run_tool(main)
