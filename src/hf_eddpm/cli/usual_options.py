"""The options of training and evaluation that most users need: a help that fits a screen."""

_RUN = {
    "--output_dir FOLDER": "where it goes; runs/<name of the configuration> by default",
    "--max_steps N": "training steps; by default what fits the data",
    "--learning_rate X": "0.001 without a configuration",
    "--per_device_train_batch_size N": "data of a step; 64 without a configuration",
    "--precision NAME": "auto, bf16, fp16 or fp32",
    "--seed N": "of weights, order and noise",
    "--resume_from_checkpoint auto": "go on where an interrupted run stopped",
    "--model_config JSON": "values of the model, merged into the configuration's",
}
_MEASURED = {
    "--checkpoint FOLDER": "a saved pipeline, or its Hub id",
    "--output FILE": "JSON of the results",
    "--update_card": "store the results in the checkpoint and write its card anew",
}
USUAL_OPTIONS: dict[tuple[str, str], dict[str, str]] = {
    ("train", "text"): {
        "--train FILES": "txt, csv, tsv, jsonl, parquet (gz), or a Hub data set; file=1 labels a file",
        "--dev FILES": "held-out sentences; by default a share of the training data",
        "--text_column NAME": "column of the sentence",
        "--label_column NAME": "column of an integer class",
        "--encoder ID": "pretrained encoder",
        "--decoder ID": "pretrained language model; --lora trains adapters on it",
        **_RUN,
    },
    ("train", "protein"): {
        "--train FILES": "csv, tsv, jsonl, parquet, fasta (gz), or a Hub data set",
        "--dev FILES": "held-out proteins; by default a share of the training data",
        "--sequence_column NAME": "column of the sequence",
        "--property_columns NAMES": "columns of measured values",
        "--padding_symbol LETTER": "letter that the files pad sequences with",
        **_RUN,
    },
    ("train", "image"): {
        "--train SOURCES": "folders, npz, parquet, idx, `digits`, or a Hub data set",
        "--dev SOURCES": "held-out images; by default a share of the training data",
        "--image_size N": "height and width; the data's by default",
        "--label_column NAME": "attribute of the class",
        "--resize HOW": "none, stretch or crop",
        **_RUN,
    },
    ("evaluate", "text"): {
        **_MEASURED,
        "--train FILES": "the sentences the model was trained on",
        "--dev FILES": "held-out sentences",
        "--limit N": "most held-out sentences",
    },
    ("evaluate", "protein"): {
        **_MEASURED,
        "--train FILES": "the proteins the model was trained on",
        "--dev FILES": "held-out proteins",
        "--padding_symbol LETTER": "letter that the files pad sequences with",
        "--num_samples N": "samples for each number of steps",
    },
    ("evaluate", "image"): {
        **_MEASURED,
        "--train SOURCES": "as in training",
        "--label_column NAME": "attribute of the class",
        "--num_samples N": "samples for each number of steps",
        "--num_reconstructions N": "held-out images that are reconstructed",
    },
}
