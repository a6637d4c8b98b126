"""Closed forms of queueing theory.

Kleinrock, *Queueing Systems*, volume 1 (1975): M/M/1, M/M/c and the Erlang formulas (chapter 3),
the Pollaczek-Khinchine formula of M/G/1 (chapter 5).
"""

from __future__ import annotations


def mg1_wait(load: float, service: float, cv: float = 1.0) -> float:
    """Mean wait in M/G/1 (Pollaczek-Khinchine); M/M/1 has ``cv`` 1, M/D/1 has 0.

    Args:
        load: arrival rate × mean service time, below 1.
        service: mean service time; the wait is in its unit.
        cv: standard deviation / mean of the service time.
    """
    return load * service * (1 + cv**2) / (2 * (1 - load))


def erlang_b(servers: int, offered: float) -> float:
    """The share of arrivals that an M/G/c/c system turns away (Erlang's loss formula).

    Args:
        servers: ``c``.
        offered: arrival rate × mean service time, in erlangs.
    """
    blocked = 1.0
    for n in range(1, servers + 1):
        blocked = offered * blocked / (n + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """The share of arrivals that have to wait in M/M/c; *offered* is below *servers*.

    Args:
        servers: ``c``.
        offered: arrival rate × mean service time, in erlangs.
    """
    blocked = erlang_b(servers, offered)
    return servers * blocked / (servers - offered * (1 - blocked))


def mmc_wait(servers: int, offered: float, service: float) -> float:
    """Mean wait in M/M/c, in the unit of the mean *service* time.

    Args:
        servers: ``c``.
        offered: arrival rate × mean service time, in erlangs, below *servers*.
        service: mean service time.
    """
    return erlang_c(servers, offered) * service / (servers - offered)
