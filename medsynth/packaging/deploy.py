"""The network of a packed bundle in forms that need no medsynth: TorchScript and ONNX."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import io
import logging
import operator
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from torch import Tensor, nn

from medsynth.errors import MedsynthError
from medsynth.nn.conditioning import UNKNOWN_CLASS
from medsynth.run.recipe import LoadedModel
from medsynth.storage import write_bytes

DOMAINS = {"image": "source", "pred": "target"}  # what MONAI calls them -> of a model of two domains
MODALITIES = {"mri": "MR", "ct": "CT", "image": "n/a"}
ANY_SIZE = 32  # pixels a side of the example where the network takes any
TOLERANCE = 1e-3  # of outputs in [-1, 1]


class Forward(nn.Module):
    """`network.forward` with its tensors in a fixed order, all of them given.

    Args:
        names: of its arguments; those of the metadata first, then class and position where the network takes them.
        fixed: other arguments, such as noise that does not change from call to call.
    """

    def __init__(self, network: nn.Module, names: list[str], fixed: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.names, self.fixed = network, names, fixed

    def forward(self, *tensors: Tensor) -> Any:
        """A tensor or a tuple of them."""
        return self.network(**dict(zip(self.names, tensors, strict=True)), **self.fixed)


def describe_formats(formats: dict[str, Any], model: LoadedModel) -> dict[str, Any]:
    """`network_data_format` of a bundle's metadata, with sizes, channels and modality as this model has them.

    A size that the bundle leaves open (`"*"`) stays open.
    """
    formats = copy.deepcopy(formats)
    definition = model.definition.get("stage_one", model.definition)
    for name, tensor in [*formats["inputs"].items(), *formats["outputs"].items()]:
        recipe = model.preprocessing.get(DOMAINS.get(name, name), model.preprocessing)
        if tensor["type"] == "image":
            tensor["modality"] = MODALITIES.get(recipe.get("modality"), tensor["modality"])
            shape = tensor["spatial_shape"]
            sides = definition.get("size") or [definition.get("image_size") or shape[0]] * len(shape)
            tensor["spatial_shape"] = [
                old if isinstance(old, str) else new for old, new in zip(shape, sides, strict=True)
            ]
    contrasts = model.definition.get("contrasts")
    if contrasts:  # which make the target, and nothing makes them
        formats["inputs"].pop("target")
        formats["outputs"].pop("source")
    neighbours = model.definition.get("neighbours", 0)
    for tensor in formats["inputs"].values():
        if tensor["type"] == "image" and neighbours:
            offsets = range(-neighbours, neighbours + 1)
            tensor["num_channels"] = 2 * neighbours + 1
            tensor["channel_def"] = {str(i): f"slice {at:+d}" if at else "image" for i, at in enumerate(offsets)}
        elif tensor["format"] == "latent":
            tensor["num_channels"] = model.definition.get("latent_features", tensor["num_channels"])
        if contrasts:
            slices = list(tensor["channel_def"].values()) if neighbours else ["image"]
            channels = [f"{contrast}, {at}" for contrast in contrasts for at in slices]
            tensor["num_channels"] = len(channels)
            tensor["channel_def"] = {str(i): channel for i, channel in enumerate(channels)}
    return formats


def callable_network(model: LoadedModel, metadata: dict[str, Any]) -> tuple[Forward, list[Tensor]]:
    """The network as one call, and an example of two for it.

    Raises:
        MedsynthError: its forward call does not take what the metadata says, such as that of a prior.
    """
    formats = metadata["network_data_format"]["inputs"]
    parameters = inspect.signature(model.network.forward).parameters
    needed = [name for name, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    needed += [name for name in formats if name in parameters and name not in needed]
    if len(needed) != len(formats):
        raise MedsynthError(
            f"a {type(model.network).__name__} is not a single call from {' and '.join(formats)} to an image, and "
            "cannot be exported: leave --export out"
        )
    examples = {name: _example(tensor) for name, tensor in zip(needed, formats.values(), strict=True)}
    if model.definition.get("num_classes") and "label" in parameters:
        examples["label"] = torch.tensor([UNKNOWN_CLASS, 0])
    if model.definition.get("use_position"):
        positions = [name for name in parameters if name.endswith("position")]
        examples |= {name: torch.tensor([torch.nan, 0.5]) for name in positions}
    fixed = {"noise": "fixed"} if "noise" in parameters else {}
    return Forward(model.network, list(examples), fixed).eval(), list(examples.values())


def export_network(form: str, model: LoadedModel, metadata: dict[str, Any], folder: Path) -> Path:
    """Write model.ts or model.onnx, and compare what it gives with what the network gives.

    Args:
        form: `torchscript` or `onnx`.

    Raises:
        MedsynthError: the network cannot be exported, or the exported file gives other images.
    """
    network, examples = callable_network(model, metadata)
    path = folder / ("model.ts" if form == "torchscript" else "model.onnx")
    write, read = FORMS[form]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that are the same in every call
        try:
            write(network, examples, metadata, path)
            restored = read(path)
            for inputs in (examples, [torch.cat([example, example[:1]]) for example in examples]):
                _require_same(network(*inputs), restored(*inputs), path)
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = re.sub(r"\x1b\[\d*m", "", str(error)).strip().partition("\n")[0].partition(". ")[0]
            name = type(model.network).__name__
            raise MedsynthError(f"{name} cannot be exported as {form} ({reason}): leave --export out") from error
    return path


def _example(tensor: dict[str, Any]) -> Tensor:
    sides = [ANY_SIZE if isinstance(side, str) else side for side in tensor["spatial_shape"]]
    shape = (2, tensor["num_channels"], *sides)
    generator = torch.Generator().manual_seed(0)
    if tensor["format"] == "latent":
        return torch.randn(shape, generator=generator)
    return torch.rand(shape, generator=generator) * 2 - 1


def _traced(network: Forward, examples: list[Tensor]) -> torch.jit.ScriptModule:
    return torch.jit.trace(network, tuple(examples), check_trace=False)


def _write_torchscript(network: Forward, examples: list[Tensor], metadata: dict[str, Any], path: Path) -> None:
    buffer = io.BytesIO()
    save_net_with_metadata(_traced(network, examples), buffer, meta_values=metadata)
    write_bytes(path, _without_sources(buffer.getvalue()))


def _without_sources(archive: bytes) -> bytes:
    """A TorchScript archive without its table of source files, which has paths of the machine it was made on."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stripped, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            if not item.filename.endswith(".debug_pkl"):
                new.writestr(item.filename, old.read(item))
    return stripped.getvalue()


def _read_torchscript(path: Path) -> Callable[..., Any]:
    return torch.jit.load(path, map_location="cpu")


def _write_onnx(network: Forward, examples: list[Tensor], metadata: dict[str, Any], path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MedsynthError(f"--export onnx needs {missing[0]}: pip install 'medsynth[onnx]'")
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    formats = metadata["network_data_format"]
    batch = tuple({0: torch.export.Dim("batch")} for _ in examples)
    program = torch.export.export(network, tuple(examples), dynamic_shapes=(batch,), strict=False)
    model = torch.onnx.export(
        _folded(program.run_decompositions({}).module()),
        tuple(examples),
        input_names=network.names,
        output_names=[f"{name}_out" if name in network.names else name for name in formats["outputs"]],
        dynamic_shapes=batch,
        dynamo=True,
        verbose=False,
    ).model_proto
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    for item in (model, *nodes, *model.graph.input, *model.graph.output, *model.graph.value_info):
        del item.metadata_props[:]  # the lines of source that it came from
    onnx.checker.check_model(model)
    write_bytes(path, model.SerializeToString())


def _folded(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Compute what depends on weights alone, and solve linear systems by the inverse: ONNX has no solver."""
    known: dict[torch.fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(module)
        elif node.op == "call_function" and all(source in known for source in node.all_input_nodes):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
            if isinstance(known[node], Tensor):
                constant = _constant(module, node, known[node])
                node.replace_all_uses_with(constant)
                known[constant] = known[node]
        elif node.target is torch.ops.aten.linalg_solve.default and node.args[0] in known:
            matrix, right = node.args
            inverse = _constant(module, node, torch.linalg.inv(known[matrix].double()).float())
            with module.graph.inserting_after(node):
                node.replace_all_uses_with(module.graph.call_function(torch.ops.aten.matmul.default, (inverse, right)))
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _constant(module: torch.fx.GraphModule, node: torch.fx.Node, value: Tensor) -> torch.fx.Node:
    """A node for `value`, before `node`."""
    module.register_buffer(f"folded_{node.name}", value.detach())
    with module.graph.inserting_before(node):
        return module.graph.get_attr(f"folded_{node.name}")


def _read_onnx(path: Path) -> Callable[..., Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def call(*tensors: Tensor) -> list[Tensor]:
        feed = dict(zip(names, (tensor.numpy() for tensor in tensors), strict=True))
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return call


FORMS: dict[str, tuple[Callable[..., None], Callable[..., Callable[..., Any]]]] = {
    "torchscript": (_write_torchscript, _read_torchscript),
    "onnx": (_write_onnx, _read_onnx),
}


def _require_same(expected: Any, found: Any, path: Path) -> None:
    expected, found = ([value] if isinstance(value, Tensor) else list(value) for value in (expected, found))
    pairs = list(zip(expected, found, strict=True))
    if any(a.shape != b.shape for a, b in pairs) or max((a - b).abs().max() for a, b in pairs) > TOLERANCE:
        path.unlink()
        raise MedsynthError(f"{path.name} gives other images than the network: leave --export out")
