"""What do regressors of fitness learn from few rows?

    python training/studies/protein_curve/regression.py gfp --dev $GFP/validation.csv.gz --train $GFP/train.csv.gz \\
        --checkpoint model_cards/eddpm-gfp

All methods learn from the same rows, drawn from those held out from the checkpoint, and are tested on others of them.
The latents of a checkpoint have learned from the fitness of its training rows; what stands on one-hot residues sees
the rows it learns from alone. Where there are too few held-out rows to learn from, the methods without latents get
training rows, too, and those with latents are left out. What has been measured is not measured again.
`--embeddings` adds those of a language model that has seen other proteins only (embed.py).
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from hf_eddpm import EDDPMPipeline
from hf_eddpm.design.judges import ProcessJudge
from hf_eddpm.design.measurements import check_measurements
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.protein.metrics import SYMBOLS, to_frames
from hf_eddpm.modalities.protein.oracle import fit_cnn, fit_ridge
from hf_eddpm.property_ensemble import HeadSizes, fit_ensemble

HERE = Path(__file__).parent
BATCH = 96  # best-predicted rows whose measured mean is reported, a plate's
GP_FIT_ROWS = 800  # rows that the hyperparameters of the Gaussian process are found on
GP_LENGTHS = (1.0, 5.0, 25.0)  # sites, where the search for the length scale starts
CNN_UPDATES, CNN_BATCH = 600, 32


@dataclass
class Rows:
    """Rows to learn from or to test on.

    Attributes:
        sequences: Residues.
        values: Measurements, `(num,)`.
        frames: One-hot indices, uint8 `(num, sites)`.
        latents: Posterior means, `(num, num_latents, latent_dim)`; None where the checkpoint was trained on a row.
        embeddings: Of a language model, `(num, size)`; None where there are none.
    """

    sequences: list[str]
    values: np.ndarray
    frames: np.ndarray
    latents: torch.Tensor | None
    embeddings: np.ndarray | None = None


Method = Callable[[EDDPMPipeline, Rows, Rows, int], np.ndarray]


def ridge(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """Ridge regression on one-hot residues."""
    return fit_ridge(train.frames, train.values, seed).predict(test.frames)


def ridge_embeddings(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """Ridge regression on standardised embeddings; how strong, by leaving out one row at a time."""
    scale = StandardScaler().fit(train.embeddings)
    model = RidgeCV(np.logspace(-1, 5, 13)).fit(scale.transform(train.embeddings), train.values)
    return model.predict(scale.transform(test.embeddings))


def cnn(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """A convolutional network on one-hot residues: 20 passes over the rows, or 600 steps of 32 if these are more."""
    epochs = min(max(20, -(-CNN_UPDATES * CNN_BATCH // len(train.values))), 200)
    network = fit_cnn(train.frames, train.values, seed, num_epochs=epochs, batch_size=CNN_BATCH)
    return network.predict(test.frames)


def gaussian_process(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """An exact Gaussian process with a squared-exponential kernel on one-hot residues, and noise.

    On one-hot vectors the squared distance is twice the number of sites that differ, H, so that the kernel is
    amplitude * exp(-H / length). The three hyperparameters maximise the marginal likelihood (Rasmussen & Williams
    2006, equation 5.8) of at most 800 rows, from three starts; the prediction (equation 2.25) uses all.
    """
    mean, std = train.values.mean(), train.values.std()
    targets = (train.values - mean) / std
    some = np.random.default_rng(seed).permutation(len(targets))[:GP_FIT_ROWS]
    distances = hamming(train.frames[some], train.frames[some])

    def cost(logs: np.ndarray) -> float:
        amplitude, length, noise = np.exp(np.clip(logs, -10, 10))
        covariance = amplitude * np.exp(-distances / length) + (noise + 1e-6) * np.eye(len(some))
        factor = cho_factor(covariance, lower=True)
        return float(targets[some] @ cho_solve(factor, targets[some]) / 2 + np.log(np.diag(factor[0])).sum())

    found = [
        minimize(cost, np.log([1.0, length, 0.1]), method="Nelder-Mead", options={"maxfev": 80})
        for length in GP_LENGTHS
    ]
    best = min(found, key=lambda each: each.fun)
    amplitude, length, noise = np.exp(np.clip(best.x, -10, 10))
    covariance = amplitude * np.exp(-hamming(train.frames, train.frames) / length)
    covariance[np.diag_indices(len(targets))] += noise + 1e-6
    weights = cho_solve(cho_factor(covariance, lower=True, overwrite_a=True), targets)
    return amplitude * np.exp(-hamming(test.frames, train.frames) / length) @ weights * std + mean


def hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sites at which two sets of frames differ, `(a, b)`."""
    vectors = [np.eye(len(SYMBOLS), dtype=np.float32)[each].reshape(len(each), -1) for each in (a, b)]
    return a.shape[1] - (vectors[0] @ vectors[1].T).astype(np.float64)


def judge(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """The judge that `design` fits to a table, on sequences."""
    return _judge(pipe, train, test, seed, False)


def judge_latents(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """The same on sequences and latents, `use_latents=True`."""
    return _judge(pipe, train, test, seed, True)


def _judge(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int, use_latents: bool) -> np.ndarray:
    known = dict(zip(train.sequences + test.sequences, range(len(train.values) + len(test.values)), strict=True))

    def encode(sequences) -> np.ndarray:
        latents = torch.cat([train.latents, test.latents]).flatten(1).double().numpy()
        return latents[[known[sequence] for sequence in sequences]]

    table = check_measurements(train.sequences, train.values, pipe.processor.as_list)
    rng = np.random.default_rng(seed)
    fitted = ProcessJudge(
        table,
        lambda each: to_frames(each, pipe.processor.length, pipe.processor.alignment),
        encode if use_latents else None,
        ["higher"],
        rng,
    )
    return fitted.predict(test.sequences)[0][:, 0]


def heads(pipe: EDDPMPipeline, train: Rows, test: Rows, seed: int) -> np.ndarray:
    """An ensemble of heads on latents, as `fit_property` fits it."""
    config = pipe.model.config
    sizes = HeadSizes(config.latent_size, 1, config.property_hidden_size, 16)
    generator = torch.Generator().manual_seed(seed)
    head = fit_ensemble(sizes, train.latents, torch.from_numpy(train.values)[:, None], 1000, generator).head
    with torch.no_grad():
        return head.predict(test.latents)[:, 0].numpy()


METHODS: dict[str, Method] = {
    "ridge, one-hot": ridge,
    "ridge, UniRep embeddings": ridge_embeddings,
    "CNN, one-hot": cnn,
    "Gaussian process, one-hot": gaussian_process,
    "judge of `design`": judge,
    "judge with latents": judge_latents,
    "ensemble of heads on latents": heads,
}
ON_EMBEDDINGS = ("ridge, UniRep embeddings",)
ON_LATENTS = ("judge with latents", "ensemble of heads on latents")


def load(sources: list[str], padding_symbol: str | None) -> tuple[list[str], np.ndarray]:
    """Sequences with a measurement, and it."""
    table = load_proteins(sources, property_columns=["fitness"], padding_symbol=padding_symbol)
    known = np.flatnonzero(~np.isnan(table.properties[:, 0]))
    return [table.sequences[row] for row in known], table.properties[known, 0]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", help="Of the landscape, in the results.")
    parser.add_argument("--dev", nargs="+", required=True, help="Tables held out from the checkpoint.")
    parser.add_argument("--train", nargs="+", default=[], help="Tables that it was trained on.")
    parser.add_argument("--checkpoint", required=True, help="Folder of a pipeline.")
    parser.add_argument("--padding_symbol", help="Letter that the tables pad sequences with.")
    parser.add_argument("--embeddings", type=Path, help="Those of the sequences, written by embed.py.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 200, 1000, 5000], help="Rows to learn from.")
    parser.add_argument("--num_test", type=int, default=1500, help="Rows to test on.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Of rows and regressors.")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="Some; by default all.")
    parser.add_argument("--again", action="store_true", help="Measure what has been measured again.")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "regression.json", help="Where results go.")
    given = parser.parse_args(args)
    pipe = EDDPMPipeline.from_pretrained(given.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    dev, dev_values = load(given.dev, given.padding_symbol)
    more, more_values = load(given.train, given.padding_symbol) if given.train else ([], np.empty(0))
    frames = to_frames(dev, pipe.processor.length, pipe.processor.alignment)
    latents = pipe.encode(dev, 250).latents.float().cpu() if set(given.methods) & set(ON_LATENTS) else None
    embed = load_embeddings(given.embeddings)
    for seed in given.seeds:
        order = np.random.default_rng(seed).permutation(len(dev))
        test_rows, pool = order[: given.num_test], order[given.num_test :]
        test = take(dev, dev_values, frames, latents, test_rows, embed)
        for size in given.sizes:
            train = take(dev, dev_values, frames, latents, pool[:size], embed)
            if size > len(pool):
                extra = np.random.default_rng(seed).permutation(len(more))[: size - len(pool)]
                if len(extra) < size - len(pool):
                    continue
                names = [more[row] for row in extra]
                added = to_frames(names, pipe.processor.length, pipe.processor.alignment)
                values = np.concatenate([train.values, more_values[extra]])
                train = Rows(train.sequences + names, values, np.concatenate([train.frames, added]), None)
            for name in given.methods:
                results = json.loads(given.output.read_text()) if given.output.is_file() else {}
                key = f"{given.name}/{size}/{name}/{seed}"
                if key in results and not given.again:
                    continue
                if name in ON_LATENTS and train.latents is None:
                    continue
                if name in ON_EMBEDDINGS and (train.embeddings is None or test.embeddings is None):
                    continue
                begin = time.perf_counter()
                predictions = METHODS[name](pipe, train, test, seed)
                best = np.argsort(-predictions, kind="stable")[:BATCH]
                constant = np.ptp(predictions) == 0  # it has learned nothing
                result = {
                    "spearman": 0.0 if constant else float(spearmanr(predictions, test.values).statistic),
                    "top": float(test.values[best].mean()),
                    "seconds": round(time.perf_counter() - begin, 1),
                }
                results = json.loads(given.output.read_text()) if given.output.is_file() else {}
                results[key] = result
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
                print(key, result, flush=True)


def load_embeddings(path: Path | None) -> dict[str, np.ndarray]:
    """Embeddings by their sequence; none without a file."""
    if path is None:
        return {}
    with np.load(path) as file:
        return dict(zip(file["sequences"].tolist(), file["embeddings"], strict=True))


def take(sequences, values, frames, latents, rows, embed: dict[str, np.ndarray]) -> Rows:
    """Those rows."""
    names = [sequences[row] for row in rows]
    known = bool(embed) and all(name in embed for name in names)
    return Rows(
        names,
        values[rows],
        frames[rows],
        None if latents is None else latents[rows],
        np.stack([embed[name] for name in names]) if known else None,
    )


if __name__ == "__main__":
    main()
