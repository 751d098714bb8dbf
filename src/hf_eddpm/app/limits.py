"""How much one request may ask for, so that a page with many visitors answers each of them."""

from typing import Annotated

from ..argument_types import Bounds

MAX_SAMPLES = 64
MAX_DATA = 32  # that one request encodes
MAX_CHARACTERS = 1000  # of a text or a protein
MAX_PIXELS = 4096  # of a side of an uploaded image
MAX_CANDIDATES = 8  # of a sample
MAX_STEPS = 200  # of a chain or of an optimisation
MAX_REFINEMENT_STEPS = 50
MAX_PATH = 15
MAX_MAP_SAMPLES = 1000
MAX_TIMESTEPS = 256  # that score a datum

MAX_WAITING = 32  # requests in the queue; more are told to come back
MAX_AT_ONCE = 1  # requests that compute at the same time, of all visitors: each takes every core
MAX_UPLOAD = "10mb"

NumSamples = Annotated[int, Bounds(at_least=1, at_most=MAX_SAMPLES)]
NumCandidates = Annotated[int, Bounds(at_least=1, at_most=MAX_CANDIDATES)]
NumSteps = Annotated[int, Bounds(at_least=1, at_most=MAX_STEPS)]
NumRefinementSteps = Annotated[int, Bounds(at_least=0, at_most=MAX_REFINEMENT_STEPS)]
NumPoints = Annotated[int, Bounds(at_least=2, at_most=MAX_PATH)]
NumMapSamples = Annotated[int, Bounds(at_least=3, at_most=MAX_MAP_SAMPLES)]
NumTimesteps = Annotated[int, Bounds(at_least=1, at_most=MAX_TIMESTEPS)]
Seed = Annotated[int, Bounds(at_least=0, at_most=2**32 - 1)]
