"""A page in the browser that tries a checkpoint: `hf-eddpm app`."""
