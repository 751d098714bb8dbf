"""The plate that proteins are measured on."""

ROWS, COLUMNS = "ABCDEFGH", 12
WELLS = len(ROWS) * COLUMNS
