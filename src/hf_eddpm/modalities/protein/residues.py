"""The alphabet of proteins, which the processor and the decoders share."""

RESIDUES = "ACDEFGHIKLMNPQRSTVWYX"  # the twenty amino acids, and X for one that is unknown
PADDING_ID, START_ID, STOP_ID = 0, 1, 2
FIRST_RESIDUE_ID = 3
VOCAB_SIZE = FIRST_RESIDUE_ID + len(RESIDUES)
