"""How does Prometheus read an engine's metrics?"""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from .embedding import EmbeddingEngine
from .metrics import EngineMetrics, Spread

_COUNTERS = {
    "requests": "Requests taken into the queue.",
    "refused": "Requests that a full queue did not take.",
    "calls": "Calls of the backend.",
    "clips": "Clips that the backend computed.",
}
_ENDS = ("computed", "failed", "cancelled", "expired", "closed")
_GAUGES = {"waiting_requests": "Requests in the queue.", "waiting_clips": "Clips in the queue."}
_SPREADS = {
    "wait": "From a request to the call of the backend.",
    "compute": "The backend's calls, once for each request.",
    "total": "From a request to its rows.",
}


class EngineCollector(Collector):
    """An engine's metrics for a `CollectorRegistry`, read whenever it is scraped; durations are in seconds.

    Two engines go into two registries, for their metrics have the same names.
    """

    def __init__(self, engine: EmbeddingEngine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """All of `EngineMetrics`, and what runs."""
        metrics, backend = self._engine.metrics(), self._engine.backend
        yield InfoMetricFamily(
            "vjepa2_engine",
            "What runs.",
            {
                "backend": backend.name,
                "device": backend.device,
                "precision": backend.precision,
                "bundle": backend.bundle.path.name,
                "model": backend.bundle.manifest.model.name,
            },
        )
        for name, about in _COUNTERS.items():
            yield CounterMetricFamily(f"vjepa2_{name}", about, getattr(metrics, name))
        for name, about in _GAUGES.items():
            yield GaugeMetricFamily(f"vjepa2_{name}", about, getattr(metrics, name))
        yield from _count_ends(metrics)
        if metrics.first_call_ms is not None:
            yield GaugeMetricFamily("vjepa2_first_call_seconds", "The first call, apart.", metrics.first_call_ms / 1e3)
        for name, about in _SPREADS.items():
            yield _summarise(f"vjepa2_{name}_seconds", about, getattr(metrics, name))


def _count_ends(metrics: EngineMetrics) -> Iterator[Metric]:
    ends = CounterMetricFamily("vjepa2_ended", "Requests by how they ended.", labels=("end",))
    for end in _ENDS:
        ends.add_metric((end,), getattr(metrics, end))
    yield ends
    videos = CounterMetricFamily("vjepa2_videos", "Videos that encode read, by how they went.", labels=("status",))
    for status in ("ok", "partial", "rejected"):
        videos.add_metric((status,), getattr(metrics, f"videos_{status}"))
    yield videos


def _summarise(name: str, about: str, spread: Spread) -> Metric:
    """A summary with quantiles of the last requests, which the library has no class for."""
    summary = Metric(name, about, "summary")
    for quantile, time_ms in (("0.5", spread.p50_ms), ("0.9", spread.p90_ms), ("0.99", spread.p99_ms)):
        if time_ms is not None:
            summary.add_sample(name, {"quantile": quantile}, time_ms / 1e3)
    summary.add_sample(f"{name}_count", {}, spread.count)
    summary.add_sample(f"{name}_sum", {}, spread.sum_ms / 1e3)
    return summary
