"""What TensorBoard's HParams page gets of a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_search import scripted

from tuning.hparams import LOGS, METRIC


def test_tensorboard_reads_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    result = scripted(tmp_path, monkeypatch.setattr, trials=10)
    assert len(list((tmp_path / LOGS).iterdir())) == 10
    for trial in result.trials:
        accumulator = EventAccumulator(str(tmp_path / LOGS / f"trial-{trial.number:04d}"))
        accumulator.Reload()
        tags = accumulator.SummaryMetadata
        start = metadata.parse_session_start_info_plugin_data(tags(metadata.SESSION_START_INFO_TAG).plugin_data.content)
        assert set(start.hparams) == set(trial.config)
        assert start.hparams["optimizer"].string_value == trial.optimizer
        if trial.curve:
            assert {event.step: pytest.approx(float(event.tensor_proto.float_val[0])) for event in accumulator.Tensors(METRIC)} == trial.curve


def test_a_search_can_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path, monkeypatch.setattr, trials=2, tensorboard=False)
    assert not (tmp_path / LOGS).exists()
