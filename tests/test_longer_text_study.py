"""Several latents for a text: the comparison of layouts, and BLEU against length."""

import gzip
import json
import math
from pathlib import Path

import pytest
from conftest import SENTENCES

import longer_text.by_length as study
import longer_text.run as layouts_study
from hf_eddpm.modalities.text.data import load_text
from longer_text.passages import WORDS, main, passages

RESULTS = Path(study.__file__).parent / "results" / "by_length"


def test_passages_are_the_utterances_in_their_order():
    utterances = [f"say {number} and again {number}." for number in range(400)]
    found = list(passages(utterances, 0))
    assert " ".join(utterances).startswith(" ".join(found))
    assert len(" ".join(utterances).split()) - len(" ".join(found).split()) < max(WORDS)
    lengths = [len(passage.split()) for passage in found]
    # utterances of five words fill up to the next multiple of five
    assert set(lengths) == {5 * math.ceil(wanted / 5) for wanted in WORDS}
    assert list(passages(utterances, 0)) == found != list(passages(utterances, 1))


def test_the_files_hold_one_passage_a_line(tmp_path, capsys):
    for split in ("train", "dev"):
        with gzip.open(tmp_path / f"{split}.tsv.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"user\tI say {split} café {number}.\n" for number in range(100))
    main(["--dialogue", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--seed", "3"])
    said = capsys.readouterr().out
    for split in ("train", "dev"):
        lines = load_text([str(tmp_path / "out" / f"{split}.txt")]).sentences
        assert f"{split}: {len(lines)} passages" in said
        assert all(line.startswith(f"I say {split} café ") and line.endswith(".") for line in lines)


def test_the_layouts_hold_128_or_512_numbers():
    widths = {name: v.model_config["num_latents"] * v.model_config["latent_dim"] for name, v in study.LAYOUTS.items()}
    assert sorted(set(widths.values())) == [128, 512]
    assert {v.model_config["num_latents"] for v in study.LAYOUTS.values()} == {1, 4, 8, 16}
    for name, layout in study.LAYOUTS.items():
        latents, dim = (int(number) for number in name.split(" in ")[0].split(" x "))
        assert (layout.model_config["num_latents"], layout.model_config["latent_dim"]) == (latents, dim)
        assert ("decoder_prefix_length" in layout.model_config) == ("eight vectors" in name)


def test_passages_lie_in_the_bin_of_their_tokens(monkeypatch, pipe):
    tokens = sorted({len(pipe.processor.decoder_tokenizer(sentence)["input_ids"]) for sentence in SENTENCES})
    first, last = tokens[0], tokens[-1]
    monkeypatch.setattr(study, "BINS", (first, last - 1))
    found = study.by_length(pipe, SENTENCES)
    assert list(found) == [first, last - 1] and found[first]
    for least, (size, some) in zip((0, first), found.items(), strict=True):
        assert all(least < len(pipe.processor.decoder_tokenizer(s)["input_ids"]) <= size for s in some)
    monkeypatch.setattr(study, "NUM_PASSAGES", 1)
    assert all(len(some) <= 1 for some in study.by_length(pipe, SENTENCES).values())


def test_bits_are_those_of_the_reconstruction(monkeypatch, pipe):
    monkeypatch.setattr(study, "BINS", (16,))
    result = study.measure(pipe, SENTENCES[:4])["16"]
    units = [len(pipe.processor.decoder_tokenizer(s)["input_ids"]) for s in SENTENCES[:4]]
    score = pipe.score(SENTENCES[:4])
    per_token = score.reconstruction / math.log(2) / score.num_units
    assert result["num"] == 4 and 0 <= result["bleu"] <= 100
    assert result["reconstruction_bits_per_token"] == pytest.approx(float(per_token.mean()), rel=0.05)
    assert score.num_units.tolist() == [unit + 1 for unit in units]  # and the end


def test_what_was_run_is_not_run_again(tmp_path, monkeypatch, pipe):
    asked = []

    def train(layout, seed, data, words, config):
        asked.append((layout.model_config["num_latents"], seed, words[words.index("--max_minutes") + 1], config))
        return pipe, {"steps": 1200, "train_seconds": 60.0, "num_parameters": 5_000_000}

    def measure(pipe, passages):
        return {str(size): {"bleu": size / 10, "reconstruction_bits_per_token": 2.5} for size in study.BINS}

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "measure", measure)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES), encoding="utf-8")
    words = ["--train", str(text), "--dev", str(text), "--output_dir", str(tmp_path / "out"), "--max_minutes", "2"]
    study.main([*words, "--layouts", "8 x 16"])
    study.main([*words, "--layouts", "1 x 128", "8 x 16", "--seeds", "1", "2"])
    assert asked == [
        (8, 1, "2.0", layouts_study.CONFIG),
        (1, 1, "2.0", layouts_study.CONFIG),
        (1, 2, "2.0", layouts_study.CONFIG),
        (8, 2, "2.0", layouts_study.CONFIG),
    ]
    rows = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| 1 x 128", "| 8 x 16"]
    assert rows[2].startswith("| 1 x 128 | 2 | 1.6 ± 0.0 | 3.2 ± 0.0 | 6.4 ± 0.0 | 12.8 ± 0.0 | 2.50 ± 0.00 |")


def test_the_table_is_what_was_measured():
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))]
    assert results and {result["layout"] for result in results} <= set(study.LAYOUTS)
    assert study.markdown_report(results) + "\n" == (RESULTS / "table.md").read_text(encoding="utf-8")


def test_the_layouts_hold_equally_many_numbers():
    base = json.loads(layouts_study.CONFIG.read_text())["model_config"]
    layouts = [{**base, **run.model_config} for run in layouts_study.runs()]
    assert {layout["num_latents"] * layout["latent_dim"] for layout in layouts} == {128}
    assert {layout["denoiser_type"] for layout in layouts} == {"mlp", "transformer"}
    assert all(run.value == layout["num_latents"] for run, layout in zip(layouts_study.runs(), layouts, strict=True))


def test_each_layout_is_trained_once_and_stands_in_the_table(tmp_path, monkeypatch, capsys):
    asked = []

    def train(run, seed, arguments, folder, config, options):
        asked.append((run.recipe, run.value, seed, options))
        folder.mkdir()
        return folder / "pipeline", 60.0

    def measure(run, seed, arguments, pipeline, seconds):
        assert pipeline.parent.is_dir()
        number = {"mean": 3.0, "std": 0.5}
        samples = {"perplexity": number, "reverse_perplexity": number, "latent_frechet": number}
        return {
            "recipe": run.recipe,
            "seed": seed,
            "config": {"num_latents": run.value, "latent_dim": 128 // run.value},
            "reconstruction": {"bleu": 20.0 + run.value, "exact_match": 0.25},
            "samples": {"50": samples},
            "reference": {
                "dev": {"perplexity": 40.0},
                "train": {"reverse_perplexity": 90.0, "latent_frechet": 0.01},
            },
            "num_parameters": 2_500_000,
            "train_seconds": seconds,
        }

    monkeypatch.setattr(layouts_study, "train", train)
    monkeypatch.setattr(layouts_study, "measure", measure)
    words = ["--train", "a.txt", "--dev", "b.txt", "--output_dir", str(tmp_path), "--name", "captions"]
    layouts_study.main([*words, "--denoisers", "MLP", "--max_length", "40"])
    assert asked == [("MLP", 1, 1, ["--max_length", "40"]), ("MLP", 8, 1, ["--max_length", "40"])]
    layouts_study.main([*words, "--num_latents", "8", "--seeds", "1", "2"])
    assert asked[2:] == [("transformer", 8, 1, []), ("MLP", 8, 2, []), ("transformer", 8, 2, [])]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # what was trained does not stay
    table = (tmp_path / "captions.md").read_text()
    assert table.count("| 8 x 16 | transformer |") == 2 and "| 1 x 128 | MLP | 1 | 21.0 | 0.250 | 3.0 ± 0.5 |" in table
