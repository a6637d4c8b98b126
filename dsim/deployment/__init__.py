"""A deployment: many requests, shared servers, queues, batches, networks, failures and cost.

The algorithms are those of :mod:`dsim.orchestrations`, unchanged. A request sees its servers
through :mod:`dsim.deployment.shares`, which let many requests share one fleet.
"""
