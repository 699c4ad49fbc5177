from __future__ import annotations

import pytest
from toy import ToyEvaluator

from medsynth.run.recipe import load_model
from medsynth.training.verdict import verdict


@pytest.mark.parametrize(
    ("measures", "said"),
    [
        ({"gain_db": 0.003, "psnr_db": 30.0}, "no better than interpolation (+0.003 dB): train longer"),
        ({"gain_db": -0.5}, "no better than interpolation (-0.500 dB): train longer"),
        ({"gain_db": 1.234}, "1.23 dB better than interpolation"),
        (
            {"error": 5.0, "error_lookup": 4.0},
            "no better than a lookup of intensities (error 5.00 %, of the lookup 4.00 %): train longer",
        ),
        ({"error": float("nan"), "error_lookup": 4.0}, None),
        (
            {"error": 3.0, "error_lookup": 4.0},
            "better than a lookup of intensities (error 3.00 %, of the lookup 4.00 %)",
        ),
        ({"error": 3.0}, None),
        (
            {"psnr": 24.0, "psnr_averages": 24.5, "ssim": 0.9},
            "no better than averages over each code's pixels (PSNR 24.00 dB, theirs 24.50 dB): train longer",
        ),
        (
            {"psnr": 26.0, "psnr_averages": 24.5},
            "better than averages over each code's pixels (PSNR 26.00 dB, theirs 24.50 dB)",
        ),
        (
            {"swd_over_floor": 7.2},
            "samples are 7.20 times as far from held-out images as other patients' images are: train longer",
        ),
        (
            {"validation_loss": 0.22, "psnr": 17.96},
            "its prior has 0.22 of the error of one that has learned nothing, "
            "and reconstructions have a PSNR of 18.0 dB",
        ),
        (
            {"validation_loss": 0.98},
            "its prior is no better than one that has learned nothing (validation_loss 0.98 of 1): train longer",
        ),
        ({"validation_loss": 0.3}, "its prior has 0.30 of the error of one that has learned nothing"),
        ({"psnr": 30.0}, None),
    ],
)
def test_a_measure_is_compared_with_its_baseline(measures, said):
    if said is None:
        assert (verdict(measures) or "no better").startswith("no better")
    else:
        assert verdict(measures) == said


@pytest.fixture
def gains(monkeypatch):
    """What the next validations of the toy find."""

    def find(*values: float) -> None:
        left = iter([value for value in values for _ in range(2)])
        monkeypatch.setattr(ToyEvaluator, "_iteration", lambda self, engine, batch: {"error": next(left)})

    monkeypatch.setattr("medsynth.training.best_model.verdict", lambda measures: f"error {measures['val_error']:g}")
    return find


def test_the_last_line_the_page_and_the_model_say_it_of_the_best_epoch(toy_run, gains, capsys):
    gains(3.0, 1.0, 2.0)
    folder = toy_run(max_epochs=3)
    lines = (folder / "train.log").read_text().splitlines()
    assert lines[-1].endswith("The model: error 1")
    assert f"Finished: the best model is {folder / 'model.pt'}; look at" in lines[-2]
    assert "The model: error 1." in (folder / "index.html").read_text()
    assert load_model(folder / "model.pt").extra["verdict"] == "error 1"
    assert f"{folder / 'model.pt'}: error 1" in capsys.readouterr().out


def test_a_resumed_run_remembers_it(toy_run, gains):
    gains(1.0, 2.0)
    toy_run(max_epochs=1)
    assert (toy_run(max_epochs=2) / "train.log").read_text().splitlines()[-1].endswith("The model: error 1")


def test_a_run_out_of_time_is_not_finished(toy_run):
    lines = (toy_run(max_epochs=50, max_minutes=0.01, delay=0.1) / "train.log").read_text()
    over = lines.index("max_minutes (0.01) is over at iteration")
    said = lines.index("Not finished: the best model so far is")
    assert over < said
