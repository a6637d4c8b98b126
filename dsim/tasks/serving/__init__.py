"""``dsim advise --gpu``: how to serve a model on given GPUs, for a load, within an SLO."""
