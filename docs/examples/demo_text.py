"""A tour of a text checkpoint: generate, reconstruct, interpolate, edit and compare sentences.

python docs/examples/demo_text.py                                            # model_cards/eddpm-sentences
python docs/examples/demo_text.py "I left my keys at home." "Is it far?"     # your own sentences
python docs/examples/demo_text.py --checkpoint model_cards/eddpm-yelp --tour yelp
python docs/examples/demo_text.py --checkpoint runs/docstrings/pipeline --tour docstrings
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.utils import logging

from hf_eddpm import EDDPMPipeline

DEFAULT_CHECKPOINT = Path(__file__).resolve().parents[2] / "model_cards" / "eddpm-sentences"
NUM_BEAMS = 4
REDUNDANCY_PENALTY = 0.3
PATH_LENGTH = 7
REFINEMENT_STEPS = 10


@dataclass(frozen=True)
class Tour:
    """The sentences a tour uses when none are given, and the contrast that its edits move along.

    `classes` are what the model's classes are called, `edited` the sentences that are edited, by default all, and
    `edit_scales` how far. `bank` is searched for neighbours; by default the two sides of the contrast.
    """

    sentences: tuple[str, ...]
    negative_name: str
    negatives: tuple[str, ...]
    positive_name: str
    positives: tuple[str, ...]
    classes: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    edit_scales: tuple[float, ...] = (1.0, 1.5, 2.0)
    bank: tuple[str, ...] = ()


TOURS = {
    "sentences": Tour(
        sentences=(
            "I left my keys on the kitchen table.",
            "A woman is riding a bike in the park.",
            "What time does the library close?",
            "the food was cold and the waiter was rude .",
        ),
        negative_name='"A man ..."',
        negatives=(
            "A man is riding a bike.",
            "A woman is singing a song.",
            "A dog runs on the beach.",
            "A boy is playing with a ball.",
            "A girl sits on a bench.",
            "A child is eating ice cream.",
            "A person walks down the street.",
            "A cat is sleeping on the sofa.",
        ),
        positive_name='"Two men ..."',
        positives=(
            "Two men are riding bikes.",
            "Two women are singing a song.",
            "Two dogs run on the beach.",
            "Two boys are playing with a ball.",
            "Two girls sit on a bench.",
            "Two children are eating ice cream.",
            "Two people walk down the street.",
            "Two cats are sleeping on the sofa.",
        ),
        classes=("negative review", "positive review", "user's turn", "system's turn", "caption"),
        edited=(
            "A man is playing guitar on the street.",
            "A dog is swimming in a lake.",
            "A man is sitting at a table.",
            "A man is climbing a rock.",
        ),
        edit_scales=(1.25,),
        bank=(
            "I forgot my keys at home.",
            "The keys are on the table.",
            "A man is riding his bike through the park.",
            "A woman is walking her dog in the park.",
            "When does the museum open?",
            "What time does the train leave?",
            "the waiter was rude and the food was cold .",
            "the staff was friendly and the food was great .",
            "I would like to book a table for two.",
            "Two dogs run on the beach.",
            "It will rain tomorrow.",
            "He plays the guitar very well.",
        ),
    ),
    "yelp": Tour(
        sentences=(
            "the food was cold and the waiter was rude .",
            "great food and a very friendly staff !",
            "i waited an hour and no one came to help me .",
            "this is the best coffee shop in town .",
        ),
        negative_name="complaint",
        negatives=(
            "the food was terrible .",
            "the service was very slow .",
            "i will never come back here again .",
            "the staff was rude and unhelpful .",
            "my steak was cold and tasteless .",
            "this place is a huge waste of money .",
            "we waited almost an hour for our food .",
            "the room was dirty and smelled bad .",
            "worst customer service i have ever had .",
            "the chicken was dry and overcooked .",
            "i was very disappointed with this place .",
            "the waitress ignored us the whole time .",
            "it was way overpriced for what you get .",
            "the rice was bland and the soup was worse .",
            "they got my order wrong again .",
            "do not waste your time here .",
            "the manager was not helpful at all .",
            "the pizza was soggy and had no flavor .",
            "i would not recommend this place to anyone .",
            "the bathroom was disgusting .",
            "they never called me back .",
            "the drinks were weak and expensive .",
            "our server was awful .",
            "i got sick after eating here .",
        ),
        positive_name="praise",
        positives=(
            "the food was delicious .",
            "the service was fast and friendly .",
            "i will definitely come back here again .",
            "the staff was kind and very helpful .",
            "my steak was cooked perfectly .",
            "this place is worth every penny .",
            "we got our food in no time .",
            "the room was clean and comfortable .",
            "best customer service i have ever had .",
            "the chicken was tender and juicy .",
            "i was very impressed with this place .",
            "the waitress was wonderful to us .",
            "the prices are great for what you get .",
            "the rice was tasty and the soup was even better .",
            "they always get my order right .",
            "it is a great place to spend your time .",
            "the manager was very nice .",
            "the pizza was fresh and full of flavor .",
            "i would recommend this place to everyone .",
            "everything was spotless .",
            "they called me back right away .",
            "the drinks were strong and cheap .",
            "our server was awesome .",
            "i love everything on the menu here .",
        ),
    ),
    "docstrings": Tour(
        sentences=(
            "Return the name of the current file.",
            "Set the size of the figure.",
            "Return True if the given object is a function.",
            "Set the default value of the parameter.",
        ),
        negative_name='"Return ..."',
        negatives=(
            "Return the name of the column.",
            "Return the number of rows.",
            "Return a copy of the array.",
            "Return the value of the option.",
            "Return the path to the file.",
            "Return the width of the line.",
            "Return the color of the text.",
            "Return the current state of the object.",
            "Return the type of the node.",
            "Return the size of the window.",
            "Return the label of the axis.",
            "Return the position of the cursor.",
            "Return the first element of the list.",
            "Return the length of the sequence.",
            "Return the title of the figure.",
            "Return the default value of the field.",
            "Return the index of the item.",
            "Return the parent of the widget.",
            "Return the limits of the axis.",
            "Return the current version of the package.",
            "Return whether the file exists.",
            "Return the attributes of the class.",
            "Return the font size of the label.",
            "Return the timeout in seconds.",
        ),
        positive_name='"Set ..."',
        positives=(
            "Set the name of the column.",
            "Set the number of rows.",
            "Set the values of the array.",
            "Set the value of the option.",
            "Set the path to the file.",
            "Set the width of the line.",
            "Set the color of the text.",
            "Set the current state of the object.",
            "Set the type of the node.",
            "Set the size of the window.",
            "Set the label of the axis.",
            "Set the position of the cursor.",
            "Set the first element of the list.",
            "Set the length of the sequence.",
            "Set the title of the figure.",
            "Set the default value of the field.",
            "Set the index of the item.",
            "Set the parent of the widget.",
            "Set the limits of the axis.",
            "Set the current version of the package.",
            "Set whether the file is open.",
            "Set the attributes of the class.",
            "Set the font size of the label.",
            "Set the timeout in seconds.",
        ),
    ),
}


def show_model(pipe: EDDPMPipeline, checkpoint: str) -> None:
    config = pipe.model.config
    heading("The model", checkpoint)
    print(
        f"  {pipe.model.num_parameters() / 1e6:.1f} million parameters. An encoder turns a sentence into "
        f"{config.num_latents * config.latent_dim} numbers, its latents;\n"
        "  a diffusion model has learned how the latents of real sentences are distributed; a decoder turns latents\n"
        "  back into words. Trained together, they generate, reconstruct and represent sentences."
    )


def show_generation(
    pipe: EDDPMPipeline, num_samples: int, seed: int, classes: Sequence[str] = (), **options: float | int
) -> None:
    candidates = options["num_candidates"]
    heading(
        "Generate",
        f"random noise, {options['num_inference_steps']} denoising steps, then the decoder: new sentences"
        + (f", each the\nsurest of {candidates} candidates" if candidates > 1 else ""),
    )
    if len(classes) != pipe.model.config.num_classes or not classes:
        for sample in pipe(num_samples, generator=torch.Generator().manual_seed(seed), **options).samples:
            print(f"  {sample}")
        return
    for label, name in enumerate(classes):
        generator = torch.Generator().manual_seed(seed)
        count = max(1, num_samples // len(classes))
        samples = pipe(count, class_labels=label, guidance_scale=2.0, generator=generator, **options).samples
        print(f"  {name}:")
        for sample in samples:
            print(f"    {sample}")


def show_reconstruction(pipe: EDDPMPipeline, sentences: Sequence[str]) -> None:
    heading(
        "Reconstruct",
        f"encoder, then decoder; and with {REFINEMENT_STEPS} gradient steps on the latents in between",
    )
    once = pipe.reconstruct(list(sentences))
    refined = pipe.reconstruct(list(sentences), refinement_steps=REFINEMENT_STEPS)
    for sentence, *reconstructions in zip(sentences, once, refined, strict=True):
        print(f"  in        {sentence}")
        for name, reconstruction in zip(("out", "refined"), reconstructions, strict=True):
            exact = "   (word for word)" if reconstruction.split() == sentence.split() else ""
            print(f"  {name:8s}  {reconstruction}{exact}")
        print()


def show_interpolation(pipe: EDDPMPipeline, first: str, second: str) -> None:
    heading("Interpolate", "walk from one sentence to another and decode on the way")
    ways = {
        "latents": "through the latents; what lies between the two is denoised",
        "noise": "through the noise that the two sentences come from",
    }
    for space, way in ways.items():
        (path,) = pipe.interpolate(first, second, num_steps=PATH_LENGTH, space=space)
        print(f"  {way}:")
        for step, sentence in enumerate(path):
            print(f"    {step / (PATH_LENGTH - 1):4.0%}  {sentence}")
        print()


def show_edit(pipe: EDDPMPipeline, sentences: Sequence[str], tour: Tour) -> None:
    """Move each sentence from the side of the contrast where its latents lie to the other side."""
    heading(
        "Edit",
        f"add the mean difference between {tour.positive_name} and {tour.negative_name} sentences to the latents",
    )
    direction = pipe.direction(list(tour.positives), list(tour.negatives))  # (num_latents, latent_dim)
    middle = pipe.encode([*tour.positives, *tour.negatives]).latents.mean(0)  # (num_latents, latent_dim)
    projections = ((pipe.encode(list(sentences)).latents - middle) * direction).sum((1, 2))  # (batch,)
    for sentence, projection in zip(sentences, projections.tolist(), strict=True):
        sign = -1 if projection > 0 else 1
        names = (tour.negative_name, tour.positive_name)[::sign]
        print(f"  in          {sentence}   (nearer to {names[0]}; moved towards {names[1]})")
        for scale in tour.edit_scales:
            (edited,) = pipe.edit(
                [sentence],
                direction=direction,
                scale=sign * scale,
                refinement_steps=REFINEMENT_STEPS,
                num_beams=NUM_BEAMS,
            )
            print(f"  scale {scale:<4g}  {edited}")
        print()


def show_neighbours(pipe: EDDPMPipeline, sentences: Sequence[str], bank: Sequence[str], count: int = 3) -> None:
    heading("Compare", f"nearest of {len(bank)} built-in sentences, by the cosine between embeddings")
    queries = torch.nn.functional.normalize(pipe.encode(list(sentences)).embeddings, dim=-1)
    references = torch.nn.functional.normalize(pipe.encode(list(bank)).embeddings, dim=-1)
    similarities, nearest = (queries @ references.T).topk(count)  # (batch, count)
    for sentence, row, indices in zip(sentences, similarities.tolist(), nearest.tolist(), strict=True):
        print(f"  {sentence}")
        for similarity, index in zip(row, indices, strict=True):
            print(f"    {similarity:5.2f}  {bank[index]}")


def heading(title: str, explanation: str) -> None:
    print(f"\n{title}: {explanation}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", nargs="*", help="your own sentences, written like the training data")
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="local folder or Hub id")
    parser.add_argument(
        "--tour", choices=TOURS, default="sentences", help="kind of sentences the checkpoint was trained on"
    )
    parser.add_argument("--num_samples", type=int, default=15)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--noise_scale", type=float, default=0.9, help="below 1: more typical, less varied samples")
    parser.add_argument("--num_candidates", type=int, default=16, help="drawn for each sample; the surest is kept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    tour = TOURS[arguments.tour]
    # Backbones warn of the padding behind a sentence that has ended, which nothing reads.
    logging.set_verbosity_error()
    sentences = arguments.sentences or tour.sentences
    show_model(pipe, arguments.checkpoint)
    show_generation(
        pipe,
        arguments.num_samples,
        arguments.seed,
        tour.classes,
        num_inference_steps=arguments.num_inference_steps,
        noise_scale=arguments.noise_scale,
        num_candidates=arguments.num_candidates,
        redundancy_penalty=REDUNDANCY_PENALTY if arguments.num_candidates > 1 else 0.0,
        num_beams=NUM_BEAMS,
    )
    show_reconstruction(pipe, sentences)
    first, second, *_ = *sentences, *tour.sentences
    show_interpolation(pipe, first, second)
    show_edit(pipe, arguments.sentences or tour.edited or tour.sentences, tour)
    show_neighbours(pipe, sentences, tour.bank or tour.negatives + tour.positives)
    print(f"\nThe whole tour took {time.perf_counter() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
