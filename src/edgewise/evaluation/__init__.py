"""Evaluation: what a circuit's numbers are worth, beside the full model's, the empty circuit's and chance."""
