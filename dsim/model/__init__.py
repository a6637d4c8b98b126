"""What a text meets: acceptance, latency, lookahead. Numbers only, no clock."""
