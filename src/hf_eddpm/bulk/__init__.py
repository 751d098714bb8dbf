"""Bulk jobs: encode, score, generate and optimise many data, in parts that survive a kill."""

from .jobs import BulkJob
from .run import run_bulk

__all__ = ["BulkJob", "run_bulk"]
