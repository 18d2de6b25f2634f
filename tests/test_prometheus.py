"""Does Prometheus read what an engine did: by its own client's parser, not by ours?"""

from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from vjepa2.runtime import EmbeddingEngine
from vjepa2.runtime.prometheus import EngineCollector


def read(registry: CollectorRegistry) -> dict[str, float]:
    """Every sample, by its name and labels."""
    text = generate_latest(registry).decode()
    return {
        "|".join([sample.name, *(value for _, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_is_exposed_in_seconds(smallest: Path) -> None:
    registry = CollectorRegistry()
    videos = np.random.default_rng(0).integers(0, 256, (5, 2, 32, 32, 3), dtype=np.uint8)
    with EmbeddingEngine.open(smallest, "onnxruntime") as engine:
        registry.register(EngineCollector(engine))
        before = read(registry)
        assert before["vjepa2_clips_total"] == 0
        assert "vjepa2_first_call_seconds" not in before
        engine.encode([*videos, videos[0][:1]], on_error="skip")
        after, metrics = read(registry), engine.metrics()
    assert after[f"vjepa2_engine_info|onnxruntime|{smallest.name}|cpu|tiny|fp32"] == 1
    assert (after["vjepa2_requests_total"], after["vjepa2_clips_total"], after["vjepa2_refused_total"]) == (5, 5, 0)
    assert (after["vjepa2_ended_total|computed"], after["vjepa2_ended_total|expired"]) == (5, 0)
    assert (after["vjepa2_videos_total|ok"], after["vjepa2_videos_total|rejected"]) == (5, 1)
    assert (after["vjepa2_waiting_requests"], after["vjepa2_waiting_clips"]) == (0, 0)
    assert metrics.first_call_ms is not None
    assert after["vjepa2_first_call_seconds"] == pytest.approx(metrics.first_call_ms / 1e3)
    for name, spread in (("wait", metrics.wait), ("compute", metrics.compute), ("total", metrics.total)):
        assert after[f"vjepa2_{name}_seconds_count"] == spread.count == 4
        assert after[f"vjepa2_{name}_seconds_sum"] == pytest.approx(spread.sum_ms / 1e3)
        assert spread.p99_ms is not None
        assert after[f"vjepa2_{name}_seconds|0.99"] == pytest.approx(spread.p99_ms / 1e3)
