"""The tables of training/studies/sentences/README.md are those of the study's files."""

import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.tables import read_results
from hf_eddpm import EDDPMPipeline
from sentences import chain, doubts, further, lengths, normalization, unseen
from sentences.altering import LONGER, SHORT, Alteration, kind
from sentences.average import average
from sentences.domains import nearest_is_paraphrase, reconstruction_table
from sentences.samples import of_like_length, report, shares
from sentences.similarity import by_similarity, learned_map, states_of

STUDY = Path(__file__).parent.parent / "training" / "studies" / "sentences"
CHECKPOINT = Path(__file__).parent.parent / "model_cards" / "eddpm-sentences"
README = (STUDY / "README.md").read_text(encoding="utf-8")


def _cells(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("|")]


def test_what_comes_back_is_what_was_measured():
    result = json.loads((STUDY / "results" / "domains.json").read_text(encoding="utf-8"))
    rows = _cells(README)
    assert [row for row in _cells(reconstruction_table(result)) if row not in rows] == []
    for name in ("ours", "TF-IDF"):
        assert f"{100 * result['search'][name]:.0f} %" in README
    assert (STUDY / "results" / "uses.md").read_text(encoding="utf-8").strip() in README


def test_the_table_of_denoisers_is_what_was_measured():
    found = json.loads((STUDY / "results" / "chain.json").read_text(encoding="utf-8"))["denoisers"]
    for each in found:
        values = [kind["guidance 1, noise 1"] for kind in each["samples"].values()]
        cells = [f"{value['perplexity']:.0f}, {value['reverse_perplexity']:.0f}" for value in values]
        steps = "-" if each["steps_of_4096"] is None else f"{each['steps_of_4096']:,}"
        assert [each["denoiser"], each["schedule"], steps, *cells] in _cells(README)


def test_what_training_further_came_to_is_what_was_measured():
    result = json.loads((STUDY / "results" / "further.json").read_text(encoding="utf-8"))
    before, after = (result["reconstruction"][name] for name in ("before", "after"))
    for name, ways in after.items():
        cells = [f"{before[name][way]['bleu']:.1f} -> {found['bleu']:.1f}" for way, found in ways.items()]
        assert [name, *cells] in _cells(README)
    assert f"{sum(leg['steps'] for leg in result['legs']):,} steps of 128" in README
    found = json.loads((STUDY / "results" / "normalization.json").read_text(encoding="utf-8"))["nats_per_token"]
    for name, values in found.items():
        assert [name, *(f"{value:.3f}" for value in values.values())] in _cells(README)


def test_what_is_lost_is_what_was_measured():
    for name in ("lengths", "unseen"):
        assert (STUDY / "results" / f"{name}.md").read_text(encoding="utf-8").strip() in README


def test_the_branches_and_their_averages_are_those_of_the_file():
    result = json.loads((STUDY / "results" / "branches.json").read_text(encoding="utf-8"))
    for each in result["branches"] + result["averages"]:
        mean = np.dot(each["nats_per_token"], result["shares"])
        assert each["mean"] == pytest.approx(mean, abs=1e-4)
    for each in result["branches"]:
        settings = [f"{each[name]:g}" for name in ("altered", "learning_rate", "minutes")]
        assert [each["name"], each["from"], *settings, f"{each['mean']:.3f}"] in _cells(README)
    for each in result["averages"]:
        assert [each["of"], f"{each['mean']:.3f}"] in _cells(README)
    before, after = result["reconstruction"].values()
    for domain, ways in after.items():
        for steps, found in ways.items():
            assert f"{before[domain][steps]['bleu']:.1f} -> {found['bleu']:.1f} for {domain}" in README.replace(
                "\n", " "
            )


def test_the_settings_of_samples_are_those_that_were_tried():
    table = (STUDY / "results" / "sampling.md").read_text(encoding="utf-8")
    assert [row for row in _cells(table) if row not in _cells(README)] == []


def test_the_uses_are_those_of_the_file():
    table = (STUDY / "results" / "uses.md").read_text(encoding="utf-8")
    assert [row for row in _cells(table) if row not in _cells(README)] == []


@pytest.fixture
def chain_words(tmp_path):
    """The chain's command line but for the new denoiser's shape, and sentences with their classes."""
    sentences = ["the food was great .", "i hate it .", "Where do you want to go?", "It is at 5 pm.", "A dog runs."]
    files = [tmp_path / f"train.{label}.txt" for label in range(len(sentences))]
    for file, sentence in zip(files, sentences, strict=True):
        file.write_text(f"{sentence}\n{sentence} Yes.\n", encoding="utf-8")
    data = [f"{file}={label}" for label, file in enumerate(files)]
    words = ["--checkpoint", str(CHECKPOINT), "--train", *data, "--output_dir", str(tmp_path / "new")]
    return [*words, "--num_steps", "2", "--batch_size", "4", "--device", "cpu"], sentences, tmp_path / "new"


def test_a_chain_is_made_anew_and_the_autoencoder_stays(chain_words):
    words, sentences, folder = chain_words
    chain.main([*words, "--denoiser_hidden_size", "32", "--denoiser_type", "residual"])
    before, after = EDDPMPipeline.from_pretrained(CHECKPOINT), EDDPMPipeline.from_pretrained(folder)
    assert after.model.config.denoiser_hidden_size == 32
    assert type(after.model.denoiser).__name__ == "ResidualDenoiser"
    assert after.reconstruct(sentences) == before.reconstruct(sentences)
    assert len(after(2, class_labels=1, num_inference_steps=2).samples) == 2


def test_a_chain_without_a_new_shape_goes_on_from_its_own_weights(chain_words):
    words, _, folder = chain_words
    chain.main(words)
    before, after = (EDDPMPipeline.from_pretrained(path).model.denoiser for path in (CHECKPOINT, folder))
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        torch.testing.assert_close(new, old, atol=0.01, rtol=0.1, msg=name)  # two steps, float16
    assert not torch.equal(before.output.weight, after.output.weight)


def test_training_further_leaves_the_denoiser_and_renormalises(tmp_path):
    for label in range(5):
        for part in ("train", "dev"):
            (tmp_path / f"{part}.{label}.txt").write_text("the food was great .\nWhere do you want to go?\n", "utf-8")
    words = ["--checkpoint", str(CHECKPOINT), "--data", str(tmp_path), "--output_dir", str(tmp_path / "new")]
    further.main([*words, "--minutes", "0.05", "--batch_size", "4"])
    before, after = (EDDPMPipeline.from_pretrained(path).model for path in (CHECKPOINT, tmp_path / "new"))
    assert after.config.latent_normalization == "batch_renorm" and after.bottleneck.normalization.renormalize
    assert torch.equal(after.denoiser.output.weight, before.denoiser.output.weight)
    for part in ("encoder", "bottleneck", "decoder"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert any(not torch.equal(old, new) for old, new in pairs)
    log = json.loads((tmp_path / "new" / "further.json").read_text(encoding="utf-8"))
    assert log[-1]["step"] > 0 and len(log[-1]["nats_per_token"]) == 5


class _Judge:
    """Finds each sentence as likely as any, but those without the word "a" by a nat a token less."""

    def nats(self, texts):
        tokens = np.array([len(text.split()) + 1 for text in texts])
        return tokens * np.array([1.0 + (" a " not in f" {text} ") for text in texts]), tokens


def test_measures_choose_among_the_same_draws_and_a_judge_says_what_came_of_it():
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    usual = [(np.arange(1, 61), np.full(60, 1.0)) for _ in range(5)]
    samples = SimpleNamespace(pipe=pipe, labels=[4, 4, 4, 2], judge=_Judge(), usual=usual)
    found = doubts.compare(samples, num_candidates=2, seed=0)
    assert set(found) == {"any", *doubts.measures(samples, ["A dog."], torch.zeros(1, 1, 128), [4])}
    generator = torch.Generator().manual_seed(0)
    options = {"class_labels": samples.labels, "guidance_scale": 2.0, "num_inference_steps": 50}
    kept = pipe(4, num_candidates=2, generator=generator, **options, noise_scale=1.0).samples
    excess, odd = doubts.judged(samples, kept, samples.labels)
    own = found["the denoiser's error by the length"]["penalty 0"]  # what the pipeline chooses by
    assert own["excess"] == pytest.approx(excess.mean()) and own["odd"] == pytest.approx(odd.mean())
    assert own["words"] == pytest.approx(np.mean([len(text.split()) for text in kept]))
    assert set(excess.round(6)) <= {0.0, 1.0} and (odd == (excess > 0)).all()


@pytest.mark.slow
def test_two_processes_train_one_model_further(tmp_path):
    for label in range(5):
        for part in ("train", "dev"):
            (tmp_path / f"{part}.{label}.txt").write_text("the food was great .\nWhere do you want to go?\n", "utf-8")
    script = STUDY / "further.py"
    words = ["--checkpoint", str(CHECKPOINT), "--data", str(tmp_path), "--output_dir", str(tmp_path / "new")]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    run = subprocess.run(
        [*launch, *words, "--minutes", "0.1", "--batch_size", "4"],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    logged = [line for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(logged) == 1  # by the first of the two, which is told of the other


def test_what_a_batch_says_of_itself_is_told_from_what_all_data_say():
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    batch = ["A man rides a bike.", "Two dogs run on the beach.", "A woman is singing."]
    found = normalization.nats_per_token(pipe, [batch])
    tensors = pipe.processor(batch)
    with torch.no_grad():
        latents = pipe.model.encode(**{name: tensors[name] for name in ("input_ids", "attention_mask")}).mean
        nats, num_tokens = pipe.model.decoder(latents, tensors["labels"])
    assert found["by running statistics"] == pytest.approx(float(nats.sum() / num_tokens.sum()), rel=1e-4)
    assert found["by its batch"] > found["by running statistics"]  # of three captions, far from all data


def test_batches_are_of_like_length_and_of_the_classes_asked_for():
    pools = [([f"{label}-{length}" for length in range(1, 41)], list(range(1, 41))) for label in range(2)]
    stream = further.batches(pools, [0.8, 0.2], 50, random.Random(0))
    drawn = [[tuple(map(int, text.split("-"))) for text in next(stream)] for _ in range(16 * further.GROUP)]
    rows = [row for batch in drawn for row in batch]
    assert sum(label == 0 for label, _ in rows) / len(rows) == pytest.approx(0.8, abs=0.02)
    of_length = [sum(length == wanted for _, length in rows) for wanted in (1, 9, 18, 40)]
    assert of_length[0] / of_length[2] == pytest.approx(further.LEAST, abs=0.06)
    assert of_length[1] / of_length[2] == pytest.approx(0.5, abs=0.1)
    assert of_length[3] / of_length[2] == pytest.approx(1, abs=0.15)
    widths = [max(length for _, length in batch) - min(length for _, length in batch) for batch in drawn]
    assert max(widths) < 10


TURNS = ["Your table is booked for 7 pm.", "It is at 12 Main Street, San Jose.", "Where do you want to go?", "Yes."]


def test_a_joined_sentence_is_the_beginning_of_one_and_the_end_of_another():
    join = Alteration(TURNS, random.Random(0)).join
    words = "Do you like this place on Main Street?".split()
    for _ in range(200):
        joined = join(words)
        assert 1 <= len(joined) <= max(len(words) + LONGER, SHORT) and joined[0] == words[0]
        ends = [known.split()[start:] for known in TURNS for start in range(len(known.split()))]
        assert any(joined == words[: len(joined) - len(end)] + end for end in ends) or joined == words


def test_exchanged_words_are_of_the_same_kind():
    alteration = Alteration(TURNS, random.Random(0))
    words = "Is it at 7 pm, at 15 Station Street, or later?".split()
    drawn = [alteration.exchange(words) for _ in range(300)]
    assert all([kind(word) for word in each] == [kind(word) for word in words] for each in drawn)
    changed = [old != new for each in drawn for old, new in zip(words, each, strict=True)]
    assert 0.05 < sum(changed) / len(changed) < 0.2  # RATE, less those that draw themselves or have no other
    assert any(each[3] not in ("7", "12") for each in drawn)  # digits that no sentence has


def test_altered_sentences_are_the_same_for_a_seed_and_an_empty_one_stays():
    one, two = ([Alteration(TURNS, random.Random(seed))(text) for text in TURNS * 9] for seed in (3, 3))
    assert one == two != TURNS * 9
    assert Alteration(TURNS, random.Random(0))("") == ""


def test_so_many_sentences_are_altered_as_are_asked_for(monkeypatch):
    monkeypatch.setattr(further, "Alteration", lambda sentences, rng: "altered {}".format)
    sentences = [f"sentence {number}" for number in range(50)]
    stream = further.batches([(sentences, [20] * 50)], [1.0], 50, random.Random(0), altered=0.3)
    drawn = [text for _ in range(2 * further.GROUP) for text in next(stream)]
    assert sum(text.startswith("altered") for text in drawn) / len(drawn) == pytest.approx(0.3, abs=0.03)


def test_an_average_is_the_mean_of_every_tensor():
    states = [
        {"weight": torch.tensor(values, dtype=torch.float16), "steps": torch.tensor(step)}
        for values, step in (([1.0, 2.0], 3), ([3.0, 6.0], 9))
    ]
    found = average(states)
    assert found["weight"].tolist() == [2.0, 4.0] and found["weight"].dtype == torch.float16 and found["steps"] == 3
    with pytest.raises(ValueError, match="`checkpoints` must have the same tensors as the first, number 2 has others"):
        average([states[0], {"weight": torch.zeros(3), "steps": torch.tensor(0)}])


def test_what_is_lost_is_told_by_what_is_new_in_a_sentence():
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT, dtype=torch.float32)
    training = ["A man rides a bike on the street.", "A dog runs on the beach.", "A woman sings in the rain."]
    found = unseen.measure(pipe, training, ["Two dogs run on the beach."], count=3, seed=0)
    assert found["trained on"]["unseen_2"] == found["trained on"]["unseen_3"] == 0
    assert found["held out"]["unseen_2"] == pytest.approx(3 / 5) and found["held out"]["unseen_3"] == pytest.approx(
        3 / 4
    )
    assert found["joined at a word of both"]["unseen_2"] == 0
    assert found["words in any order"]["nats_per_token"] > 3 * found["trained on"]["nats_per_token"]


def test_sentences_are_parted_by_their_tokens():
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    short, longer = "It is good.", "A man in a red shirt is riding a bike on the street in front of a large crowd."
    few, many = lengths.measure(pipe, [longer, short])
    for found, sentence in ((few, short), (many, longer)):
        tokens = len(pipe.processor.tokenizer(sentence)["input_ids"])
        assert found["sentences"] == 1 and found["least"] <= tokens <= found["most"]
        for steps in lengths.STEPS:
            (copy,) = pipe.reconstruct([sentence], refinement_steps=steps)
            assert found[str(steps)]["exact_match"] == (copy == sentence)
    assert f"| {few['least']} to {few['most']} | 1 |" in lengths.report([few, many])


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    rates = [further.learning_rate(1.0, step, passed) for step, passed in ((0, 0.0), (59, 0.1), (900, 0.25))]
    assert rates == pytest.approx([1 / 60, 1.0, 1.0])
    assert further.learning_rate(1.0, 900, 0.625) == pytest.approx(0.5)
    assert further.learning_rate(1.0, 900, 1.0) == 0


def test_the_probes_are_those_of_the_logs():
    runs = json.loads((STUDY / "results" / "probes.json").read_text(encoding="utf-8")).values()
    measured = sorted(tuple(f"{point['nats_per_token']:.2f}" for point in run["loss"]) for run in runs)
    probes = README.partition("| run |")[2].partition("\n\n")[0]
    shown = sorted(tuple(re.findall(r"\b\d\.\d\d\b", row.split("|", 2)[2])) for row in probes.splitlines()[2:])
    assert shown == measured


def test_samples_stand_beside_real_sentences_of_their_lengths():
    real = [" ".join("w" * size + str(copy) for _ in range(size)) for size in range(1, 9) for copy in range(3)]
    texts = [" ".join("v" * size) for size in (2, 2, 2, 2, 8, 8, 20)]
    found = of_like_length(texts, real, random.Random(0))
    assert len(set(found)) == len(texts)
    sizes = [len(text.split()) for text in found]
    assert sizes[:3] == [2, 2, 2] and sizes[3] in (1, 3) and sizes[4:] == [8, 8, 8]


def test_the_classes_of_samples_have_their_shares_of_the_training_sentences(tmp_path):
    for label, size in enumerate((10, 20, 30, 0, 40)):
        (tmp_path / f"train.{label}.txt").write_text("a sentence\n" * size, encoding="utf-8")
    labels = shares(tmp_path, 50)
    assert labels == sorted(labels) and [labels.count(label) for label in range(5)] == [5, 10, 15, 0, 20]


def test_the_table_of_candidates_is_what_was_measured():
    for folder, count in (("samples", 13), ("samples-1000", 3)):
        results = read_results(STUDY / "results" / folder)
        assert len(results) == count
        assert report(results) in README


def test_a_learned_map_finds_what_captions_of_a_picture_share():
    torch.manual_seed(0)
    pictures = torch.arange(200).repeat_interleave(5)
    shared, own = torch.randn(200, 8)[pictures], 3 * torch.randn(1000, 24)
    states = torch.cat([shared + 0.1 * torch.randn(1000, 8), own], dim=1)
    mapped = learned_map(states[:800], pictures[:800], num_steps=300)
    with torch.no_grad():
        found = mapped(states[800:])
    assert nearest_is_paraphrase(states[800:], pictures[800:]) < 0.2
    assert nearest_is_paraphrase(found, pictures[800:]) > 0.8


def test_states_of_sentences_do_not_depend_on_their_order_or_batch(tmp_path):
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT)
    sentences = ["A dog runs on the beach.", "Two men.", "A woman in a red coat reads a book on a bench.", "A dog."]
    states = states_of(pipe, sentences)
    assert states.shape == (4, 2 * pipe.model.config.encoder.hidden_size)
    alone = torch.cat([states_of(pipe, [sentence]) for sentence in sentences])
    torch.testing.assert_close(states, alone, atol=2e-3, rtol=1e-3)
    rows = [f"{place // 2}\t{sentence}\n" for place, sentence in enumerate(sentences * 5)]
    with gzip.open(tmp_path / "train.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines(rows)
    vectors = by_similarity(pipe, tmp_path, sentences, torch.eye(4), None)
    assert [len(each) for each in vectors.values()] == [4, 4]


def test_what_candidates_are_chosen_by_is_what_was_measured():
    found = json.loads((STUDY / "results" / "doubts.json").read_text(encoding="utf-8"))["measures"]
    assert doubts.report(found) in README
    best = max((name for name in found if name != "any"), key=lambda name: found[name]["rank_correlation"])
    assert best == "the denoiser's error by the length"
