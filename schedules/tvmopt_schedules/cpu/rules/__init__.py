"""What schedule rules share: stepping aside, predictions, transcendentals as polynomials."""
