"""The algorithms, each written once as SimPy processes that ask servers for forwards."""
