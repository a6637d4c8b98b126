"""Latencies and acceptance of real models."""
