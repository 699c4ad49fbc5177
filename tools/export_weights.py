"""Write each network of a translation alone: g_target.pt, g_source.pt, d_source.pt, d_target.pt.

python tools/export_weights.py runs/translation/model.pt runs/translation/weights
"""

from __future__ import annotations

import argparse
from pathlib import Path

from medsynth.errors import refuse_existing, run_tool
from medsynth.run.model_file import require_model


def main() -> None:
    """Load, write, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="model.pt of a translation")
    parser.add_argument("folder", type=Path, help="to write to")
    parser.add_argument("--overwrite", action="store_true", help="replace weights that are there already")
    options = parser.parse_args()
    require_model(options.checkpoint)
    if not options.overwrite:
        refuse_existing(options.folder / "networks.json", "give another folder, or --overwrite to replace it")
    from medsynth.models.translation.export import export_weights  # after parsing: help and errors come at once
    from medsynth.run.recipe import load_model

    for path in export_weights(load_model(options.checkpoint), options.folder, options.overwrite):
        print(f"written to {path}")


if __name__ == "__main__":
    run_tool(main)
