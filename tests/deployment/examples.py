"""Small runs whose times are worked out by hand, used by several tests."""

from __future__ import annotations

from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec
from dsim.deployment.workload import Workload
from dsim.model.latency import Latency


def two_requests(**more):
    """nonsi, two requests of two tokens that come at once; t2 = 10."""
    settings = {
        "algorithm": "nonsi",
        "target": Latency(latency_ns=10),
        "targets": FleetSpec(servers=1),
        **more,
    }
    trace = ((0, 4, 2), (0, 4, 2))
    return serve(Deployment(**settings), Workload(arrivals="trace", trace=trace), keep_settled=True)
