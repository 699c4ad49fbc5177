from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from pydoc import locate

import monai.bundle
import pytest
import torch

from medsynth.errors import MedsynthError
from medsynth.packaging import leaks
from medsynth.packaging.deploy import callable_network, describe_formats
from medsynth.packaging.packing import inference_command, pack_bundle, read_bundle, with_settings
from medsynth.run.recipe import load_model, save_model

ROOT = Path(__file__).parents[2]
STEMS = sorted(path.parent.name for path in (ROOT / "bundles").glob("*/train.json"))
REQUIRED = {
    "version": str,
    "changelog": dict,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
"""Of metadata.json, by the MONAI Bundle Specification."""
CONDITIONS = {"num_classes": 2, "use_position": True}
PRIORS = {
    "gan.CodeGan": {"channels": 8, "latent_features": 8} | CONDITIONS,
    "transformer.CodeTransformer": {"features": 8, "layers": 1, "heads": 2, "dropout": 0.0} | CONDITIONS,
    "flow.CodeFlow": {"prior_channels": [32, 32], "dropout": 0.0} | CONDITIONS,
}
TYPES = {"image", "series", "tuples", "probabilities"}
FORMATS = {"magnitude", "hounsfield", "kspace", "raw", "labels", "classes", "segmentation", "points", "normals"}
FORMATS |= {"indices", "sequence", "latent", "gradient"}


def require_tensor_format(tensor: dict) -> None:
    """What the specification says of an input or output."""
    assert tensor["type"] in TYPES
    assert tensor["format"] in FORMATS
    assert isinstance(tensor["modality"], str)
    assert isinstance(tensor["num_channels"], int)
    assert all(isinstance(side, (int, str)) and side not in ("", 0) for side in tensor["spatial_shape"])
    getattr(torch, tensor["dtype"])
    assert len(tensor["value_range"]) in (0, 2)
    assert isinstance(tensor["is_patch_data"], bool)
    assert set(tensor["channel_def"]) <= {str(i) for i in range(tensor["num_channels"])}
    assert all(isinstance(words, str) for words in tensor["channel_def"].values())


@pytest.fixture(scope="module")
def packed(untrained, tmp_path_factory):
    """The packed bundles by stem, made when first asked for."""
    made: dict[str, Path] = {}

    def pack(stem: str) -> Path:
        if stem not in made:
            output = tmp_path_factory.mktemp("packs")
            made[stem] = pack_bundle(ROOT / "bundles" / stem, untrained(stem), output)
        return made[stem]

    return pack


@pytest.mark.parametrize("stem", STEMS)
def test_a_pack_has_the_files_and_the_metadata_of_the_specification(packed, stem):
    folder = packed(stem)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files >= {
        "configs/inference.json",
        "configs/train.json",
        "configs/metadata.json",
        "configs/logging.conf",
        "models/model.pt",
        "docs/README.md",
        "LICENSE",
    }
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    for name, kind in REQUIRED.items():
        assert isinstance(metadata[name], kind), name
        assert metadata[name], name
    assert metadata["version"] in metadata["changelog"]
    assert metadata["pytorch_version"] == torch.__version__.partition("+")[0]
    assert set(metadata["network_data_format"]) >= {"inputs", "outputs"}
    for side in ("inputs", "outputs"):
        assert metadata["network_data_format"][side]
        for tensor in metadata["network_data_format"][side].values():
            require_tensor_format(tensor)


@pytest.mark.parametrize("stem", STEMS)
def test_the_formats_in_the_metadata_are_those_of_the_network(packed, stem):
    folder = packed(stem)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    network, examples = callable_network(load_model(folder / "models" / "model.pt"), metadata)
    with torch.no_grad():
        outputs = network(*examples)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    for tensor, described in zip(outputs, metadata["network_data_format"]["outputs"].values(), strict=True):
        assert tensor.shape[1] == described["num_channels"]
        fixed = [(a, b) for a, b in zip(tensor.shape[2:], described["spatial_shape"], strict=True) if b != "*"]
        assert all(found == said for found, said in fixed)


@pytest.mark.parametrize("stem", STEMS)
def test_monai_loads_a_pack_wherever_it_lies(packed, stem, tmp_path, monkeypatch):
    folder = packed(stem)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / stem)
    monkeypatch.chdir(tmp_path)
    assert monai.bundle.load_bundle_config(str(moved), "inference.json")["bundle_root"]
    assert monai.bundle.load_bundle_config(f"{folder}.zip", "inference.json")["bundle_root"]
    before = set(tmp_path.rglob("*"))
    expected = load_model(folder / "models" / "model.pt").network.state_dict()
    for options in ({}, {"workflow_type": "inference"}, {"workflow_type": "inference", "key_in_ckpt": "weights"}):
        network = monai.bundle.load(stem, bundle_dir=str(moved.parent), device="cpu", **options)
        torch.testing.assert_close(network.state_dict(), expected, rtol=0, atol=0, equal_nan=True)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("config", ["train.json", "inference.json"])
@pytest.mark.parametrize("stem", STEMS)
def test_monai_finds_the_network_to_take_and_give_what_the_metadata_say(packed, stem, config, tmp_path, monkeypatch):
    configs = packed(stem) / "configs"
    monkeypatch.chdir(tmp_path)
    options = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / config), "device": "cpu"}
    monai.bundle.verify_net_in_out(net_id="network_def", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("prior", PRIORS)
def test_monai_finds_a_prior_to_take_and_give_what_the_metadata_say(untrained, prior, tmp_path, monkeypatch):
    one = load_model(untrained("vqvae"))
    arguments = {name: value for name, value in one.definition.items() if name != "_target_"}
    target, settings = f"medsynth.models.vqvae.priors.{prior}", {"stage_one": arguments, **PRIORS[prior]}
    network, definition = locate(target)(**settings), {"_target_": target, **settings}
    save_model(tmp_path / "model.pt", network, definition, one.preprocessing, one.classes)
    configs = pack_bundle(ROOT / "bundles/vqvae", tmp_path / "model.pt", tmp_path / "packs") / "configs"
    before = set(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    for config in ("train.json", "inference.json"):
        options = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / config), "device": "cpu"}
        monai.bundle.verify_net_in_out(net_id="network_def", **options)
    assert set(tmp_path.rglob("*")) == before
    metadata = json.loads((configs / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    images = torch.rand(1, 1, 32, 32)
    assert torch.equal(network.eval()(images), network.stage_one(images))


@pytest.mark.parametrize(("stem", "latent"), [("vaegan", True), ("vqvae", False), ("stylegan", False)])
def test_latent_models_describe_their_autoencoder(packed, stem, latent):
    metadata = json.loads((packed(stem) / "configs" / "metadata.json").read_text())
    assert ("autoencoder_data_format" in metadata) == latent
    assert metadata.get("autoencoder_data_format", metadata["network_data_format"]) == metadata["network_data_format"]


@pytest.mark.parametrize("stem", STEMS)
def test_a_pack_holds_no_path_outside_of_itself(packed, stem, tmp_path):
    folder = packed(stem)
    for path in (folder / "configs").glob("*.json"):
        text = path.read_text()
        assert '"%' not in text
        assert "runs/" not in text
        assert "bundles/" not in text
    with zipfile.ZipFile(f"{folder}.zip") as archive:
        assert all(name.startswith(f"{stem}/") for name in archive.namelist())


def test_the_command_of_a_pack_runs_it_from_where_the_user_stands(packed):
    folder = packed("superres")
    words = shlex.split(inference_command(folder))
    assert Path(words[words.index("--config_file") + 1]) == folder / "configs" / "inference.json"
    assert words[-4:] == ["--input", "scans/", "--output_dir", "results"]


@pytest.mark.parametrize("stem", STEMS)
def test_the_properties_of_a_pack_are_clean(packed, stem):
    configs = packed(stem) / "configs"
    workflow = monai.bundle.create_workflow(config_file=str(configs / "inference.json"), workflow_type="infer")
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(configs.parent.resolve())


def test_a_pack_generates_outside_of_the_repository(packed, tmp_path):
    folder = shutil.copytree(packed("vaegan"), tmp_path / "vaegan")
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.json"]
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = {command[2:]!r}; import runpy; "
    code += "runpy.run_module('monai.bundle', run_name='__main__')"
    options = ["--num_images", "4", "--device", "cpu"]
    process = subprocess.run(
        [sys.executable, "-c", code.replace("; import runpy", f"; sys.argv += {options!r}; import runpy")],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert len(list((folder / "images" / "images").glob("*.nii.gz"))) == 4


def test_settings_of_the_run_are_packed_and_its_paths_and_names_are_not(untrained, tmp_path):
    checkpoint = shutil.copy(untrained("vaegan"), tmp_path / "model.pt")
    entries = [{"image": "scans/IXI034-HH-1260_T1w.nii.gz", "subject": "IXI034"}]
    (tmp_path / "mine.json").write_text(json.dumps({"name": "mine", "training": entries}))
    config = json.loads((ROOT / "bundles/vaegan/train.json").read_text())
    config |= {"datalist": str(tmp_path / "mine.json"), "cache_dir": "/scratch/erika/cache", "learning_rate": 0.003}
    config["weights"]["kl"] = 0.5
    config["train"]["dataset"]["cache_dir"] = "/scratch/erika/cache"
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = {"command": ["/home/erika/run.py", "--datalist", "mine.json"], "images_seen": 4321, "device": "cpu"}
    (tmp_path / "provenance.json").write_text(json.dumps(facts))
    folder = pack_bundle(ROOT / "bundles/vaegan", Path(checkpoint))
    trained = json.loads((folder / "configs" / "train.json").read_text())
    assert (trained["learning_rate"], trained["weights"]["kl"], trained["datalist"]) == (0.003, 0.5, None)
    card = (folder / "docs" / "README.md").read_text()
    assert "4321" in card
    everything = "".join(path.read_text() for path in folder.rglob("*") if path.suffix in (".json", ".md", ".conf"))
    for name in ("IXI034", "erika", "mine.json", str(tmp_path)):
        assert name not in everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "/home/erika/scans"}', "/home/erika/scans"),
        ('{"a": "$load(\'/data/x.json\')"}', "/data/x.json"),
        ("see C:\\Users", "C:\\U"),
        ("~/scans/x", "~/scans/x"),
        ("of IXI034-HH.", "IXI034-HH"),
    ],
)
def test_a_bundle_with_a_path_or_a_subject_is_refused(tmp_path, text, expected):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MedsynthError, match="would reveal") as caught:
        leaks.refuse_leaks(tmp_path, {"IXI034-HH"})
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", ["https://docs.monai.io/en/x", "$@bundle_root + '/models/model.pt'", "MR/CT", "a / b"])
def test_urls_and_paths_in_the_bundle_are_not_leaks(tmp_path, text):
    (tmp_path / "a.md").write_text(text)
    leaks.refuse_leaks(tmp_path, {"IXI034-HH"})


def test_the_card_has_the_measures_of_this_model_with_intervals_and_the_privacy_audit(untrained, tmp_path):
    checkpoint = untrained("vaegan")
    evaluation = tmp_path / "metrics.json"
    fields = {"unit": "%", "direction": "lower", "n": 840, "floor": 3.3, "seed": 0, "mask": "none"}
    table = {
        "fd_self": fields | {"value": 19.28, "interval": [13.17, 33.94]},
        "closer_to_train": fields | {"value": 0.93, "unit": "", "direction": "near", "target": 0.5, "floor": 0.5},
    }
    evaluation.write_text(json.dumps(table))
    card = (pack_bundle(ROOT / "bundles/vaegan", checkpoint, tmp_path / "a", evaluation) / "docs/README.md").read_text()
    assert "| fd_self | 19.3 | % | 13.2 to 33.9 | 3.30 | 840 | lower |" in card
    audit = card.partition("## Privacy audit")[2].partition("##")[0]
    assert "Training images are repeated" in audit
    (tmp_path / "provenance.json").write_text(json.dumps({"model_sha256": "0" * 64}))
    with pytest.raises(MedsynthError, match="judges another model"):
        pack_bundle(ROOT / "bundles/vaegan", checkpoint, tmp_path / "b", evaluation)


def test_unknown_facts_are_marked_unknown(packed):
    card = (packed("vaegan") / "docs" / "README.md").read_text()
    assert card.count("Unknown: no evaluation was given.") == 2
    assert "SHA-256 of the datalist: unknown" in card


@pytest.mark.parametrize(
    ("bundle", "model", "message"),
    [
        ("vaegan", "nowhere.pt", "there is no model"),
        ("superres", None, "holds a VaeGan, and .* trains RRDBNet"),
        ("evaluation", None, "not the folder of a bundle that can be packed"),
        ("nowhere", None, "not the folder of a bundle that can be packed"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(untrained, tmp_path, bundle, model, message):
    checkpoint = untrained("vaegan") if model is None else tmp_path / model
    with pytest.raises(MedsynthError, match=message):
        pack_bundle(ROOT / "bundles" / bundle, checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_pack_is_not_overwritten(packed, untrained):
    folder = packed("vaegan")
    with pytest.raises(MedsynthError, match="is there already"):
        pack_bundle(ROOT / "bundles/vaegan", untrained("vaegan"), folder.parent)


def test_macros_are_replaced_by_their_content(tmp_path, monkeypatch):
    bundle = shutil.copytree(ROOT / "bundles/vaegan", tmp_path / "vaegan")
    (bundle / "part.json").write_text(json.dumps({"weights": {"l1": 7.0}}))
    config = json.loads((bundle / "train.json").read_text())
    (bundle / "train.json").write_text(json.dumps(config | {"weights": f"%{bundle}/part.json#weights"}))
    assert read_bundle(bundle)[1]["train.json"]["weights"] == {"l1": 7.0}


def test_settings_go_where_the_configuration_has_the_same_component():
    config = {"a": 1, "b": "$x", "part": {"_target_": "A", "c": 1}, "list": [{"_target_": "B", "d": 1}]}
    run = {"a": 2, "b": 3, "new": 4, "part": {"_target_": "A", "c": 5, "e": 6}, "list": [{"_target_": "C", "d": 2}]}
    expected = {"a": 2, "b": "$x", "part": {"_target_": "A", "c": 5, "e": 6}, "list": [{"_target_": "B", "d": 1}]}
    assert with_settings(config, run) == expected


def test_shapes_follow_the_model(untrained):
    formats = json.loads((ROOT / "bundles/superres/metadata.json").read_text())["network_data_format"]
    described = describe_formats(formats, load_model(untrained("superres")))
    (image,) = described["inputs"].values()
    assert image["num_channels"] == 3
    assert image["channel_def"] == {"0": "slice -1", "1": "image", "2": "slice +1"}
    assert image["spatial_shape"] == ["*", "*"]
