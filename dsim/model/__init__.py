"""What a text meets: acceptance, latency, lookahead. Numbers only, no clock."""

POLICIES = ("fixed", "heuristic", "aimd", "confidence")  # see :mod:`dsim.model.lookahead`
