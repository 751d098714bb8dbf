"""From measured proteins to the next ones to measure."""
