"""Base of all trainers: mixed precision, optimizer updates, moving average, state to resume from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial, wraps

import torch
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.engines import Trainer
from torch import Tensor, nn

from medsynth.distributed import average_gradients, same_everywhere
from medsynth.errors import MedsynthError, check_whole
from medsynth.nn.precision import use_bfloat16
from medsynth.training.replay import Compute, Named, RecordingMemory, Replayed

LONGEST_GRADIENT = 1.0  # norm to which longer gradients of the networks that generate images are scaled down
AVERAGE_POWER = 18  # the window's standard deviation is then a twentieth of the iterations


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters that an optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def check_weights(weights: object) -> None:
    """Refuse weights of loss terms, fields of a dataclass, that are no finite numbers from 0 on.

    Raises:
        MedsynthError: with the key of the configuration.
    """
    for name, weight in asdict(weights).items():
        if not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
            raise MedsynthError(f"weights#{name} is {weight!r}: give 0 for none, or a positive number")


def losses(**values: Tensor) -> dict[str, dict[str, Tensor]]:
    """A step's losses under their stable names, detached, as the handlers read them."""
    return {"losses": {name: value.detach() for name, value in values.items()}}


def replayed(optimizer: str) -> Callable[[Compute], Compute]:
    """Replay a trainer's method as a CUDA graph, where the trainer was asked to and its device is a GPU.

    The method computes the gradients of one phase of the algorithm, as if nothing were recorded: it takes tensors, or
    dictionaries of them, by name, leaves gradients in what `optimizer` updates, and returns a dictionary of tensors,
    within the limits of `Replayed`. `descend` follows. True and False may be given as well; each is recorded apart.

    Args:
        optimizer: its attribute of the trainer.
    """

    def wrap(method: Compute) -> Compute:
        @wraps(method)
        def step(trainer: BaseTrainer, **inputs: bool | Tensor | Named) -> Named:
            flags = {name: value for name, value in inputs.items() if isinstance(value, bool)}
            tensors = {name: value for name, value in inputs.items() if name not in flags}
            key = (method.__qualname__, *sorted(flags.items()))
            if key not in trainer.replays:
                compute, parameters = partial(method, trainer, **flags), parameters_of(getattr(trainer, optimizer))
                trainer.replays[key] = Replayed(compute, parameters, trainer.recordings)
            return trainer.replays[key](**tensors)

        return step

    return wrap


class BaseTrainer(Trainer):
    """A MONAI trainer of one network, whose moving average is written to `model.pt`.

    Subclasses set `network`, `network_optimizer` and `ema`, override `_iteration` and `sample`, and add their further
    state to `stateful`.

    Args:
        device, max_epochs, train_data_loader, epoch_length, train_handlers: as MONAI's `Trainer` takes them.
        amp: compute in bfloat16 where the device gains by it; losses and penalties stay in float32.
        cuda_graphs: on a GPU, record the methods that are `replayed`.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader,
        epoch_length: int | None = None,
        train_handlers=None,
        amp: bool = True,
        cuda_graphs: bool = True,
    ) -> None:
        check_whole("max_epochs", max_epochs, 1)
        if epoch_length is not None:
            check_whole("epoch_length", epoch_length, 1)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            handlers=train_handlers,
            amp=False,  # MONAI's means float16 with a gradient scaler; ours is bfloat16, which needs none
            decollate=False,
        )
        self.bfloat16 = use_bfloat16(self.state.device, amp)
        self.recordings = RecordingMemory() if cuda_graphs and self.state.device.type == "cuda" else None
        self.replays: dict[tuple, Replayed] = {}
        self.add_event_handler(Events.EPOCH_STARTED, self._begin_if_new)

    def autocast(self) -> torch.autocast:
        """Mixed precision as configured; the same code runs without it."""
        return torch.autocast(self.state.device.type, torch.bfloat16, enabled=self.bfloat16)

    def update(self, optimizer: torch.optim.Optimizer, loss: Tensor, longest: float | None = None) -> None:
        """One step of `optimizer` down the gradient of `loss`, as `descend` makes it."""
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.descend(optimizer, longest)

    def descend(self, optimizer: torch.optim.Optimizer, longest: float | None = None) -> None:
        """One step of `optimizer` down the gradients that its parameters have, averaged over all processes.

        Args:
            longest: largest norm of the gradient, to which longer ones are scaled down. Discriminators with a gradient
                penalty go without: a long gradient of theirs is that of the penalty.
        """
        parameters = parameters_of(optimizer)
        average_gradients(parameters)
        if longest is not None:
            nn.utils.clip_grad_norm_(parameters, longest)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # they would take memory beside the other network's

    def average(self, ema: EMAHandler) -> None:
        """Update `ema`; its warm-up goes on in a resumed run, while ignite would count from each start."""

        def resume_warm_up() -> None:
            if (warm_up := getattr(ema, "momentum_scheduler", None)) is not None:
                warm_up.event_index = self.averaged_iterations

        ema.attach(self)
        self.add_event_handler(Events.EPOCH_STARTED, resume_warm_up)

    def average_in_proportion(self, ema: EMAHandler) -> None:
        """Update `ema` over a window that is a fixed share of the iterations so far: no run is too short for it.

        Reference: Karras et al., EDM2, arXiv:2312.02696, section 3.1 (power function average).
        """

        def widen() -> None:
            self.state.ema_momentum = 1 - (1 - 1 / self.averaged_iterations) ** AVERAGE_POWER

        self.add_event_handler(Events.ITERATION_STARTED, widen)
        ema.attach(self)

    @property
    def averaged_iterations(self) -> int:
        """How many there were since what is averaged now began to learn."""
        return self.state.iteration

    def _begin_if_new(self) -> None:
        if self.state.iteration == 0:  # a run that was stopped in its first epoch starts that epoch again, later in it
            for item in self.stateful().values():
                if isinstance(item, nn.Module):
                    same_everywhere(item)
            self.begin()

    def begin(self) -> None:
        """Called once before the first step of a run, with equal weights in all processes; not in a resumed run."""

    def stateful(self) -> dict[str, object]:
        """Everything that resuming the run needs: name -> object with `state_dict` and `load_state_dict`."""
        return {
            "network": self.network,
            "ema": self.ema.ema_model,
            "network_optimizer": self.network_optimizer,
            "loader": self.data_loader,
        }

    @property
    def generator(self) -> nn.Module:
        """The network that users get."""
        return self.ema.ema_model

    def sample(self, count: int, seed: int) -> Tensor:
        """(count, C, H, W) generated images in [-1, 1] on the CPU; the same seed gives the same images."""
        raise NotImplementedError
