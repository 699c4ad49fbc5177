"""How good a model is, in one line, from the measures of a validation that have something to be compared with."""

from __future__ import annotations

from collections.abc import Mapping

LONGER = ": train longer"
LEAST_GAIN_DB = 0.1
MOST_LOSS = 0.9  # of a prior, where 1 is one that has learned nothing
MOST_TIMES = 3.0  # as far from held-out images as other patients' real images are


def verdict(measures: Mapping[str, float]) -> str | None:
    """What the first of these measures says; None if there is none of them.

    Args:
        measures: of a validation. `gain_db` is compared with interpolation, `error` with `error_lookup`,
            `psnr` with `psnr_averages`, `swd_over_floor` with other patients, `validation_loss` with a prior that has
            learned nothing, whose latents may be easy to learn because `psnr`, of reconstructions, is low.
    """
    if (gain := measures.get("gain_db")) is not None:
        if gain < LEAST_GAIN_DB:
            return f"no better than interpolation ({gain:+.3f} dB){LONGER}"
        return f"{gain:.2f} dB better than interpolation"
    if (lookup := measures.get("error_lookup")) is not None:
        errors = f"error {measures['error']:.2f} %, of the lookup {lookup:.2f} %"
        if not measures["error"] < lookup:
            return f"no better than a lookup of intensities ({errors}){LONGER}"
        return f"better than a lookup of intensities ({errors})"
    if (averages := measures.get("psnr_averages")) is not None:
        both = f"PSNR {measures['psnr']:.2f} dB, theirs {averages:.2f} dB"
        if not measures["psnr"] > averages:
            return f"no better than averages over each code's pixels ({both}){LONGER}"
        return f"better than averages over each code's pixels ({both})"
    if (times := measures.get("swd_over_floor")) is not None:
        far = f"samples are {times:.2f} times as far from held-out images as other patients' images are"
        return far + (LONGER if times > MOST_TIMES else "")
    if (loss := measures.get("validation_loss")) is not None:
        if loss > MOST_LOSS:
            return f"its prior is no better than one that has learned nothing (validation_loss {loss:.2f} of 1){LONGER}"
        decoded = f", and reconstructions have a PSNR of {measures['psnr']:.1f} dB" if "psnr" in measures else ""
        return f"its prior has {loss:.2f} of the error of one that has learned nothing{decoded}"
    return None
