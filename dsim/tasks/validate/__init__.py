"""How well the simulation predicts real runs."""
