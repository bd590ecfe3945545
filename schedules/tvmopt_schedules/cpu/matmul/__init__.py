"""Matrix products: with packed weights, and of two activations."""
