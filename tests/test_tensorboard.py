"""TensorBoard's event files: its own reader finds what metrics.jsonl has, and writing them changes no bit of a run."""

import json

import numpy as np
import pytest
import tiny_run
from test_survival import differences

from numpyllm.training.samples import SampleLog
from numpyllm.training.tensorboard import TensorBoard


def train(folder, *, watched, **changes):
    """A run of 60 steps with spikes, gone back from once -> its metrics."""
    observers = [TensorBoard(folder, histogram_interval=10), SampleLog(folder / "samples.jsonl")] if watched else []
    made = tiny_run.make(folder, observers=observers, **changes)
    if watched:
        made.sample = lambda model: f"sample of step {made.step}\n<b>"
    assert made.run()
    return made.run_folder.read_metrics()


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboards_own_reader_finds_what_the_metrics_say(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install 'numpyllm[tensorboard]'")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    metrics = train(tmp_path / "run", watched=True)
    found = reader.EventAccumulator(str(tmp_path / "run"), size_guidance={kind: 0 for kind in (
        reader.SCALARS, reader.HISTOGRAMS, reader.TENSORS)})
    found.Reload()
    tags = found.Tags()
    expected = {}
    for line in metrics:
        for tag in line.keys() - {"step"}:
            expected.setdefault(tag, []).append((line["step"], float(np.float32(line[tag]))))
    assert len(expected) > 9 and set(tags["scalars"]) == set(expected)
    for tag, points in expected.items():
        assert [(event.step, event.value) for event in found.Scalars(tag)] == points
    names = tiny_run.make().model.parameters.layout
    assert set(tags["histograms"]) == {f"{kind}/{name.replace('.', '/')}" for name in names for kind in ("weights", "gradients")}
    event = found.Histograms("weights/blocks/0/mlp/down/w")[-1]
    assert event.step == 60 and event.histogram_value.num == 8 * 32 and sum(event.histogram_value.bucket) == 8 * 32
    samples = [(event.step, event.tensor_proto.string_val[0].decode()) for event in found.Tensors("sample/text_summary")]
    assert [step for step, _ in samples] == list(range(0, 61, 5))
    assert samples[-1][1] == "    sample of step 60\n    <b>"
    kept = [json.loads(line)["step"] for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert kept == list(range(0, 61, 5))


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_watching_with_everything_changes_no_bit(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install 'numpyllm[tensorboard]'")
    train(tmp_path / "plain", watched=False)
    train(tmp_path / "watched", watched=True, log_interval=1)
    assert differences(tmp_path / "watched", tmp_path / "plain") == []
