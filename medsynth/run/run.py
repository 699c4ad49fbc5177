"""One run of a bundle: its folder, its log, its configuration, its clock."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ignite.distributed as idist
from monai.utils import set_determinism

from medsynth import distributed
from medsynth.errors import MedsynthError
from medsynth.run import config_checks as checks
from medsynth.run.log import log_to, write_log
from medsynth.run.origin import config_origin
from medsynth.run.tracking import prepare_tracking
from medsynth.storage import disk_errors, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)


class Stateful(Protocol):
    """What a checkpoint can hold: tensors and plain values out, the same back in."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Run:
    """The folder `output_dir`, created or continued. Build it before anything else of a training config.

    It refuses misspelt overrides, shows mistakes in one line, starts `train.log`, saves the configuration as
    `config.json` and seeds. The handlers share it. A new folder is made when the training begins, see `begin`.

    Args:
        output_dir: the run folder.
        seed: of every random number of the run.
        resume: continue a run in `output_dir`; if false, a folder that holds one is refused.

    Attributes:
        start_iteration: at which this process continued; 0 in a new run.
        saved_iteration: of the last checkpoint.
        images: training images seen, over all resumes.
        verdict: how good model.pt is, in one line; None: not known.
        stateful: state of handlers that a checkpoint saves, by name.
    """

    def __init__(self, output_dir: str, seed: int, resume: bool = True) -> None:
        checks.show_mistakes_in_one_line()
        origin = config_origin()
        self._parser = origin.parser
        if self._parser is not None and origin.files:
            checks.check_overrides(self._parser, origin.files)
            prepare_tracking(self._parser)
            resume = checks.json_word(resume)
        distributed.start()
        self.is_main = idist.get_rank() == 0
        self.folder = Path(output_dir)
        self.checkpoint = self.folder / "checkpoints" / "latest.pt"
        self.former_checkpoint = self.checkpoint.with_name("previous.pt")
        self.model = self.folder / "model.pt"
        self.seed = seed
        self.resume = resume
        self.start_iteration = self.saved_iteration = 0
        self.images = 0
        self.verdict: str | None = None
        self.stateful: dict[str, Stateful] = {}
        self._started = time.monotonic()
        self._seconds_before = 0.0
        self._writer: SummaryWriter | None = None
        if not resume and self.has_checkpoint():
            raise MedsynthError(f"{self.folder} holds a run already: give another output_dir, or --resume true")
        self._refuse_other_system()
        if self.is_main:
            self._try_folder()
        else:
            logging.getLogger().setLevel(logging.WARNING)
        set_determinism(seed + idist.get_rank())

    def _refuse_other_system(self) -> None:
        """Refuse to continue a run of another network."""
        snapshot = self.folder / "config.json"
        if self._parser is None or not self.has_checkpoint() or not snapshot.exists():
            return
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged config.json says nothing
            before = json.loads(snapshot.read_text())["network_def"]["_target_"]
            now = self._parser.config["network_def"]["_target_"]
            if before != now:
                raise MedsynthError(
                    f"{self.folder} holds a run of {before.rpartition('.')[2]}, and this one trains "
                    f"{now.rpartition('.')[2]}: give another output_dir"
                )

    def has_checkpoint(self) -> bool:
        """Whether there is a run to continue."""
        return self.checkpoint.exists() or self.former_checkpoint.exists()

    @property
    def session_seconds(self) -> float:
        """Since this process opened the run."""
        return time.monotonic() - self._started

    @property
    def seconds(self) -> float:
        """Since the run was begun, without the time between a stop and its resume."""
        return self._seconds_before + self.session_seconds

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "seconds": self.seconds} | {
            name: item.state_dict() for name, item in self.stateful.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = state["images"]
        self._seconds_before = state["seconds"] - self.session_seconds
        for name, item in self.stateful.items():
            if name in state:
                item.load_state_dict(state[name])

    def save_config(self) -> None:
        """Write the configuration to `config.json`: once it is known to fit the checkpoint, if there is one."""
        if self._parser is None or not self.is_main:
            return
        snapshot = self.folder / "config.json"
        config = json.loads(json.dumps(self._parser.config, default=str))
        if self.start_iteration and snapshot.exists():
            _log_changes(json.loads(snapshot.read_text()), config)
        write_text(snapshot, json.dumps(config, indent=4) + "\n")

    def setting(self, id: str) -> Any:
        """The value `id` of the configuration, as it is written there; None outside of one."""
        return None if self._parser is None else self._parser.get(id)

    def definition(self, id: str) -> dict[str, Any]:
        """The entry `id` of the configuration, still a definition, with references replaced by plain values.

        Raises:
            MedsynthError: one of its values is an object, which a recipe cannot hold.
        """
        if self._parser is None:
            raise RuntimeError("definition() needs the configuration that made this run")
        return self._plain(id, self._parser[id])

    def _plain(self, id: str, entry: Any) -> Any:
        if isinstance(entry, dict):
            return {name: self._plain(f"{id}::{name}", value) for name, value in entry.items()}
        if isinstance(entry, list):
            return [self._plain(f"{id}::{i}", value) for i, value in enumerate(entry)]
        if not (isinstance(entry, str) and entry.startswith(("@", "$"))):
            return entry
        value = self._parser.get_parsed_content(id)
        try:
            return json.loads(json.dumps(value))
        except TypeError as error:
            raise MedsynthError(
                f"{id} is a {type(value).__name__}, and model.pt holds plain values only: give a number, text or list"
            ) from error

    @contextlib.contextmanager
    def tensorboard(self, iteration: int) -> Iterator[SummaryWriter]:
        """The run's event writer, flushed at the end; opening it drops what was written after `iteration`.

        If its thread meets a full disk, the next write or flush raises the error.
        """
        folder = self.folder / "tensorboard"
        with disk_errors(folder):
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # takes a second to import

                self._writer = SummaryWriter(str(folder), purge_step=iteration + 1)
            yield self._writer
            self._writer.flush()

    def begin(self) -> None:
        """Make the folder and write its log, once nothing can be refused any more."""
        if not self.is_main:
            return
        with disk_errors(self.folder):
            for name in ("checkpoints", "samples", "tensorboard"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            write_log()

    def _try_folder(self) -> None:
        """Check that the folder can be written, and leave none where there was none: a start may still be refused."""
        new = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "checkpoints").mkdir(exist_ok=True)
            for path in [self.folder / "checkpoints", *new] if new else []:
                path.rmdir()
        log_to(self.folder / "train.log")
        if not new:
            write_log()
        logger.info("%s %s", "Going on with" if self.has_checkpoint() else "Starting", self.folder)


def _log_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Log which top-level settings differ from those of the run so far."""
    for name, value in now.items():
        if before.get(name) != value and not isinstance(value, (dict, list)):
            logger.info("%s was %s and is %s now", name, before.get(name), value)
    if before.get("datalist") != now.get("datalist"):
        logger.warning(
            "the datalist is another one: if its patients differ, model.pt learns from both lists, and an evaluation "
            "against one of them misses the patients of the other; give another output_dir to begin anew"
        )
