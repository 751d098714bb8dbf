"""The Frechet distance, under the name that the scripts import it by."""

from hf_eddpm.metrics.frechet_distance import frechet_distance

__all__ = ["frechet_distance"]
