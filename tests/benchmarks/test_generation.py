"""benchmarks/generation.py on a few pairs of the shipped network."""

import json

from benchmarks import generation


def test_rates_by_minibatch(tmp_path, capsys):
    out = tmp_path / "result.json"
    assert generation.main(["--minibatches=2", "--pairs=4", "--rounds=1", f"--out={out}"]) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert result["network"] == "ccp-2d-32.safetensors" and result["classes"] == 13
    row, = result["pairs_per_sec"]
    assert row["minibatch"] == 2 and min(row[kind] for kind in generation.KINDS) > 0
