"""Evaluate the choices of signal cleaning, each against a known answer.

Usage: python benchmarks/bench_signals.py [gaps scatter ends regression noise] [--data FOLDER]

FOLDER holds `abide_cc200_dev.npz` (parcel series of low-motion scans) and `fmriprep_hybrid/` (volumes painted from
known series with real confounds mixed in). Prints one table for each experiment; `noise` needs no data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.interpolate import Akima1DInterpolator, CubicSpline, PchipInterpolator
from scipy.signal import butter, filtfilt

from bids_semantoks.files import read_table
from bids_semantoks.signals.confounds import build_cosines
from bids_semantoks.signals.filters import _estimate_from_spectrum, fill_gaps

BAND = (0.01, 0.1)
Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]


def detrend(values: np.ndarray) -> np.ndarray:
    """Remove a straight line."""
    line = np.stack([np.ones(len(values)), np.linspace(-1, 1, len(values))], axis=1)
    return values - line @ np.linalg.lstsq(line, values, rcond=None)[0]


def pass_through(values: np.ndarray, tr: float, padtype: str = "even", **options: int) -> np.ndarray:
    """Filter as the program does, with other ends where asked."""
    b, a = butter(5, [BAND[0], min(BAND[1], 0.49 / tr)], "band", fs=1 / tr)
    return filtfilt(b, a, values, axis=0, padtype=padtype, **options)


def correlate(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the median over columns of their correlation."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    return float(np.median((one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))))


def compare_connectivity(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the root mean square difference of two correlation matrices above the diagonal."""
    above = np.triu_indices(one.shape[1], 1)
    return float(np.sqrt(((np.corrcoef(one.T) - np.corrcoef(other.T))[above] ** 2).mean()))


def interpolate(kind: str) -> Fill:
    """Build a rival that interpolates every gap alike."""

    def fill(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
        known, gaps, filled = np.flatnonzero(kept), np.flatnonzero(~kept), values.copy()
        if kind == "line":
            filled[gaps] = np.stack([np.interp(gaps, known, column[known]) for column in values.T], axis=1)
        else:
            maker = {"spline": CubicSpline, "pchip": PchipInterpolator, "akima": Akima1DInterpolator}[kind]
            filled[gaps] = maker(known, values[known])(gaps)
        return filled

    return fill


def fill_from_spectrum(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Fill all gaps from the spectrum, as a rival of the rule by length."""
    return np.where(kept[:, None], values, _estimate_from_spectrum(values, kept))


FILLS: dict[str, Fill] = {kind: interpolate(kind) for kind in ("spline", "pchip", "akima", "line")} | {
    "spectrum": fill_from_spectrum,
    "ours": fill_gaps,
}


def read_scans(data: Path, n_scans: int, least: float) -> Iterator[tuple[np.ndarray, float]]:
    """Read the scans with the least motion: series (T, P) and repetition time."""
    stored = np.load(data / "abide_cc200_dev.npz")
    motion, lengths, times = stored["phenotype_mean_fd"], stored["lengths"], stored["repetition_time"]
    usable = np.flatnonzero((motion > 0) & (lengths * times >= least))
    for scan in usable[np.argsort(motion[usable])[:n_scans]]:
        series = stored["values"][scan, :, : lengths[scan]].T.astype(np.float64)
        yield series[:, series.std(axis=0) > 0], float(times[scan])


def drop_at_random(n_volumes: int, share: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Drop a share of volumes in stretches of a mean length; the ends stay."""
    kept = np.ones(n_volumes, dtype=bool)
    while (~kept).mean() < share:
        start = int(rng.integers(2, n_volumes - 4))
        kept[start : min(start + int(rng.geometric(1 / length)), n_volumes - 2)] = False
    return kept


def score_fills(series: np.ndarray, tr: float, kept: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Score each rule: kept volumes against no gap, connectivity, largest invented value in SD."""
    truth = pass_through(detrend(series), tr)
    scores = {}
    for name, fill in FILLS.items():
        cleaned = pass_through(detrend(fill(series, kept)), tr)
        largest = np.abs(cleaned[~kept] / cleaned.std(axis=0)).max()
        scores[name] = (
            correlate(cleaned[kept], truth[kept]),
            compare_connectivity(cleaned[kept], truth[kept]),
            largest,
        )
    return scores


def print_fills(title: str, scores: list[dict[str, tuple[float, float, float]]]) -> None:
    """Print one row of a table of rules, averaged over scans."""
    means = {name: np.mean([one[name] for one in scores], axis=0) for name in FILLS}
    print(f"{title:24s}" + "".join(f"  {r:.3f} {c:.3f} {z:4.1f}" for r, c, z in means.values()))


def measure_gaps(data: Path) -> None:
    """One gap in 12 scans, at three places."""
    print("\nOne gap: r of kept volumes, error of connectivity, largest invented value (SD)")
    print(" " * 24 + "".join(f"  {name:16s}" for name in FILLS))
    for seconds in (2, 4, 6, 10, 20, 40, 80):
        scores = []
        for series, tr in read_scans(data, 12, 300):
            for place in (0.3, 0.5, 0.7):
                start, length = int(place * len(series) - seconds / tr / 2), max(1, round(seconds / tr))
                kept = np.ones(len(series), dtype=bool)
                kept[start : start + length] = False
                scores.append(score_fills(series, tr, kept))
        print_fills(f"{seconds} s", scores)


def measure_scatter(data: Path) -> None:
    """Stretches all over the run, as motion leaves them."""
    print("\nScattered gaps: the same three numbers")
    rng = np.random.default_rng(0)
    for length in (1, 3, 8):
        for share in (0.1, 0.3, 0.5):
            scores = [
                score_fills(series, tr, drop_at_random(len(series), share, length, rng))
                for series, tr in read_scans(data, 8, 300)
            ]
            print_fills(f"{share:.0%} in stretches of {length}", scores)


def predict_ends(values: np.ndarray, n_more: int) -> np.ndarray:
    """Continue a series at both ends with an autoregressive model of all columns (Yule and Walker)."""
    from scipy.linalg import solve_toeplitz

    order, sides = min(len(values) // 3, 60), []
    for series in (values[::-1], values):
        centred = series - series.mean(axis=0)
        power = np.abs(np.fft.rfft(centred, 2 * len(series), axis=0)) ** 2
        lags = np.fft.irfft(power, axis=0)[: order + 1]
        lags = (lags / lags[0]).mean(axis=1)
        lags[0] *= 1.0001
        weights = solve_toeplitz(lags[:order], lags[1:])
        longer = np.concatenate([centred, np.zeros((n_more, values.shape[1]))])
        for t in range(len(series), len(longer)):
            longer[t] = weights @ longer[t - order : t][::-1]
        sides.append(longer[len(series) :] + series.mean(axis=0))
    return np.concatenate([sides[0][::-1], values, sides[1]])


def clean_ends(series: np.ndarray, tr: float, kind: str) -> np.ndarray:
    """Filter with one treatment of the ends, "cosines" before the name for fMRIPrep's cosines removed as well."""
    series, n_more = detrend(series), min(len(series) - 1, round(100 / tr))
    if kind.startswith("cosines"):
        drifts = pass_through(
            detrend(np.stack(list(build_cosines(len(series), tr).values()), axis=1)), tr, kind.split()[1]
        )
        filtered = pass_through(series, tr, kind.split()[1])
        return filtered - drifts @ np.linalg.lstsq(drifts, filtered, rcond=None)[0]
    if kind == "predicted":
        return pass_through(predict_ends(series, n_more), tr, "odd", padlen=0)[n_more:-n_more]
    return pass_through(series, tr, kind)


def measure_ends(data: Path) -> None:
    """Cut 240 s out of longer scans and hold them against the whole scan filtered, without and with slow drifts."""
    kinds = ("odd", "even", "predicted", "cosines odd", "cosines even")
    for drift in (0, 2):
        print(f"\nEnds of a run, drifts of {drift} SD: r; r and variance ratio of first and last 20 s; connectivity")
        scores: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in kinds}
        rng = np.random.default_rng(1)
        for series, tr in read_scans(data, 16, 400):
            n, edge = int(240 / tr), round(20 / tr)
            start = (len(series) - n) // 2
            truth, part = pass_through(detrend(series), tr)[start : start + n], series[start : start + n].copy()
            time = np.linspace(0, 1, n)[:, None]
            sizes = drift * part.std(axis=0) * rng.standard_normal((3, part.shape[1])) / np.sqrt(3)
            phases = rng.random(part.shape[1])
            part += 2 * sizes[0] * time + sizes[1] * (2 * time - 1) ** 2
            part += sizes[2] * np.sin(2 * np.pi * (0.7 * time + phases))
            ends = np.r_[0:edge, n - edge : n]
            for kind in kinds:
                cleaned = clean_ends(part, tr, kind)
                ratio = np.median((cleaned[ends] ** 2).mean(axis=0) / (truth[ends] ** 2).mean(axis=0))
                scores[kind].append(
                    (
                        correlate(cleaned, truth),
                        correlate(cleaned[ends], truth[ends]),
                        float(ratio),
                        compare_connectivity(cleaned, truth),
                    )
                )
        for kind in kinds:
            print(f"{kind:24s}" + "".join(f"  {value:.3f}" for value in np.mean(scores[kind], axis=0)))


def read_hybrid(data: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """Read the painted runs: parcel means (T, P), the truth (T, P), 26 regressors and the repetition time."""
    root = data / "fmriprep_hybrid"
    atlas = nib.load(next((root / "atlas").glob("*_dseg.nii.gz")))
    labels = np.asarray(atlas.dataobj).astype(int)
    terms = ("", "_derivative1", "_power2", "_derivative1_power2")
    for func in sorted((root / "derivatives" / "fmriprep").glob("sub-*/func")):
        image = nib.load(next(func.glob("*_desc-preproc_bold.nii.gz")))
        mask = np.asarray(nib.load(next(func.glob("*_desc-brain_mask.nii.gz"))).dataobj) > 0
        place = np.linalg.inv(atlas.affine) @ image.affine
        voxels = np.rint(place[:3, :3] @ np.argwhere(mask).T + place[:3, 3:]).astype(int)
        inside = ((voxels >= 0) & (voxels < np.array(labels.shape)[:, None])).all(axis=0)
        label = np.zeros(mask.sum(), dtype=int)
        label[inside] = labels[tuple(voxels[:, inside])]
        sizes = np.maximum(np.bincount(label, minlength=451)[1:], 1)
        volumes = np.moveaxis(np.asarray(image.dataobj), -1, 0)
        means = np.stack([np.bincount(label, volume[mask], 451)[1:] / sizes for volume in volumes])
        names, cells = read_table(next(func.glob("*_desc-confounds_timeseries.tsv")))
        wanted = [f"{kind}_{axis}{term}" for kind in ("trans", "rot") for axis in "xyz" for term in terms]
        regressors = np.nan_to_num(cells[:, [names.index(name) for name in (*wanted, "csf", "white_matter")]])
        truth = np.load(root / f"truth_{func.parent.name}.npz")["truth"].T.astype(np.float64)
        yield means, truth, regressors, float(image.header.get_zooms()[3])


def measure_regression(data: Path) -> None:
    """Fit regressors on all volumes or on kept ones, in painted runs whose dropped volumes hold artefacts."""
    print("\nRegression: r of kept volumes with the truth, error of connectivity")
    fills = ("spline", "ours")
    variants = [(f, fit, c) for f in fills for fit in ("all", "kept") for c in ("cosines", "none")]
    runs = list(read_hybrid(data))
    for share in (0.0, 0.2, 0.35, 0.5):
        rng, scores = np.random.default_rng(0), {variant: [] for variant in variants}
        for means, truth, regressors, tr in runs * (1 if share == 0 else 4):
            kept = drop_at_random(len(means), share, 2.5, rng)
            spoiled = means + np.where(kept, 0, 5 * rng.standard_normal(len(means)))[:, None] * means.std(axis=0)
            wanted = pass_through(detrend(truth), tr)[kept]
            drifts = np.stack(list(build_cosines(len(means), tr).values()), axis=1)
            for variant in variants:
                fill, fit, cosines = FILLS[variant[0]], variant[1], variant[2]
                design = np.concatenate([regressors, drifts[:, : None if cosines == "cosines" else 0]], axis=1)
                signals, design = (pass_through(detrend(fill(one, kept)), tr) for one in (spoiled, design))
                design = np.concatenate([design / design.std(axis=0), np.ones((len(design), 1))], axis=1)
                rows = kept if fit == "kept" else np.ones_like(kept)
                cleaned = signals - design @ np.linalg.lstsq(design[rows], signals[rows], rcond=None)[0]
                scores[variant].append((correlate(cleaned[kept], wanted), compare_connectivity(cleaned[kept], wanted)))
        for variant in variants:
            r, error = np.mean(scores[variant], axis=0)
            print(f"{share:4.0%} scrubbed, {', '.join(variant):24s}  {r:.3f}  {error:.3f}")


def measure_noise(_: Path) -> None:
    """Share of the variance in the pass band that cosines take from white noise."""
    print("\nVariance of white noise in the pass band that fMRIPrep's cosines take")
    rng = np.random.default_rng(0)
    for seconds in (200, 300, 600, 1200):
        noise = rng.standard_normal((seconds // 2, 500))
        plain, without = clean_ends(noise, 2.0, "even"), clean_ends(noise, 2.0, "cosines even")
        print(f"{seconds} s: {1 - without.var() / plain.var():.1%}")


EXPERIMENTS: dict[str, Callable[[Path], None]] = {
    "gaps": measure_gaps,
    "scatter": measure_scatter,
    "ends": measure_ends,
    "regression": measure_regression,
    "noise": measure_noise,
}


def main() -> None:
    """Run the experiments that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    for name in arguments.experiments or EXPERIMENTS:
        if name != "noise" and not arguments.data.is_dir():
            print(f"\n{name}: skipped, {arguments.data} is not there (--data)")
        else:
            EXPERIMENTS[name](arguments.data)


if __name__ == "__main__":
    main()
