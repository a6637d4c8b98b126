"""Replicas: servers that step their whole batch at once, as vLLM does (``docs/replicas.md``)."""
