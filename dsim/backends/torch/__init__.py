"""Real models: worker processes, decoders, verification rules."""
