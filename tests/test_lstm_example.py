"""examples/lstm_against_gpt.py, run small."""

from pathlib import Path

from test_examples import TEXT, load

from numpyllm.cli.arguments import guarded


def test_both_learn_and_a_table_is_printed(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(TEXT)
    main = load("lstm_against_gpt")
    assert guarded(main, ["--data", str(tmp_path / "text.txt"), "--contexts", "8", "--steps", "2", "--vocab_size", "270",
                          "--picture", str(tmp_path / "picture.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["8", "gpt"], ["8", "lstm"]]
    parameters = [int(line.split()[2].replace(",", "")) for line in lines[2:4]]
    assert abs(parameters[0] - parameters[1]) < 0.05 * parameters[0]
    assert Path(tmp_path / "picture.png").exists() or lines[-1].startswith("no picture")
    assert guarded(main, ["--data", str(tmp_path / "text.txt"), "--contexts", "5000", "--vocab_size", "270"]) == 2
