"""What keeping freed memory is worth: the same decoding in two processes, with and without.

    python training/studies/speed/allocator.py --checkpoint model_cards/eddpm-faces64 \\
        --output training/studies/speed/results/allocator.json
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_eddpm import EDDPMPipeline
from hf_eddpm.allocator import keep_freed_memory
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

BATCH = 50


def decode(checkpoint: str, num_data: int, keep: bool) -> dict[str, Any]:
    """Seconds and page faults of decoding random latents on one thread, after a first batch."""
    if keep and not keep_freed_memory():
        raise OSError("The C library is not glibc, or did not take the values.")
    torch.set_num_threads(1)
    pipe = EDDPMPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.model.config
    shape = (num_data, config.num_latents, config.latent_dim)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    pipe.decode(latents[:BATCH], batch_size=BATCH)
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    pipe.decode(latents, batch_size=BATCH)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "freed memory": "kept" if keep else "given back",
        "seconds": round(seconds, 2),
        "in the system": round(after.ru_stime - before.ru_stime, 2),
        "page faults": after.ru_minflt - before.ru_minflt,
    }


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table; with `--keep`, in a process of its own, measures once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it")
    parser.add_argument("--num_data", type=int, default=200, help="data that are decoded")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each")
    parser.add_argument("--keep", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    if arguments.keep is not None:
        print(json.dumps(decode(arguments.checkpoint, arguments.num_data, bool(arguments.keep))))
        return
    rows = []
    for keep in [0, 1] * arguments.repeats:
        once = [sys.executable, __file__, *words, "--keep", str(keep)]
        answer = subprocess.run(once, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows.append(json.loads(answer.splitlines()[-1]))
    table = markdown_table(rows)
    command = describe_command("training/studies/speed/allocator.py", words)
    finish_result({"command": command, "rows": rows}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
