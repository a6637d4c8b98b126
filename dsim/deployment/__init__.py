"""A deployment: many requests, shared servers, queues, batches, networks, failures and cost.

The algorithms are those of :mod:`dsim.events`, unchanged. A request sees its servers through
:mod:`dsim.deployment.fleet`, which lets many requests share them.
"""
