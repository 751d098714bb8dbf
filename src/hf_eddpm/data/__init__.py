"""Reading data: tables, and data of any modality."""
