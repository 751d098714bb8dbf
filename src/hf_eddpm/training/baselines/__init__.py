"""What EDDPM is compared with, made of the same networks."""
