"""edgewise finds circuits in transformers: the few edges between components that carry one behaviour."""
