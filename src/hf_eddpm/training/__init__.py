"""Training, evaluation and distillation."""
