"""Write the built-in phantom: a BIDS-like data set of made-up heads or bodies.

python tools/make_phantom.py data/phantom --subjects 24 --modalities T1w CT
python tools/make_phantom.py data/bodies --region body --spacing_mm 3 --modalities T1w CT
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from medsynth.data.datalist.datalist import PAIRS
from medsynth.data.phantom.phantom import MODALITIES, REGIONS, write_dataset
from medsynth.errors import run_tool


def main() -> None:
    """Read the command line, write the data set, and print the path of its datalist and what to run next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="to write to: a folder that does not exist yet, or is empty")
    parser.add_argument("--subjects", type=int, default=24, help="how many, half of each group (%(default)s)")
    parser.add_argument("--region", choices=REGIONS, default="head", help="what to make (%(default)s)")
    parser.add_argument("--spacing_mm", type=float, default=2.0, help="edge of the voxels (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (%(default)s)")
    parser.add_argument("--modalities", nargs="+", default=["T1w"], metavar="NAME", help=f"of {', '.join(MODALITIES)}")
    options = parser.parse_args()
    print(write_dataset(**vars(options)))
    print(f"next: {next_command(Path(options.folder), options.modalities)}")


def next_command(folder: Path, modalities: Sequence[str]) -> str:
    """The command that trains on images or pairs; of more modalities, the one that lists all as contrasts."""
    if len(modalities) > 2:
        *sources, target = (f"*_{name}.nii.gz" for name in modalities)
        patterns = [word for source in sources for word in ("--source", source)]
        command = ["python", "tools/make_datalist.py", str(folder), f"data/{folder.name}.json"]
        return shlex.join([*command, *patterns, "--target", target])
    bundle, listed = ("vaegan", "datalist.json") if len(modalities) == 1 else ("translation", PAIRS)
    words = ["--modality", "ct"] if modalities == ["CT"] else []
    command = ["python", "-m", "monai.bundle", "run", "training", "--config_file", f"bundles/{bundle}/train.json"]
    return shlex.join([*command, "--datalist", str(folder / listed), *words, "--output_dir", f"runs/{folder.name}"])


if __name__ == "__main__":
    run_tool(main)
