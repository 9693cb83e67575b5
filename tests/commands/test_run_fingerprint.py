"""What belongs to a run's identity: settings that decide results do, those of how results are shown do not."""

from helpers.experiments import callback, experiment, weights_and_concept

from physteer.cli import main
from physteer.run_folder import EXPERIMENT


def test_how_results_are_shown_is_no_part_of_a_run(tiny_well, tmp_path, capsys):
    weights_and_concept(tmp_path)

    def predict(*shown, strength=0.3):
        config = experiment(
            tmp_path / "steer.yaml",
            model={"checkpoint": str(tmp_path / "walrus.safetensors")},
            data={"path": str(tiny_well), "rollout_steps": 2, "include": ["2e3_Schmidt_5e-1"]},
            callbacks=[
                callback("Steer", concept=str(tmp_path / "concept.safetensors"), strengths=[strength]),
                callback("RolloutWriter"),
                *shown,
            ],
            default_root_dir=str(tmp_path / "run"),
        )
        status = main(["predict", "--config", str(config)])
        return status, (tmp_path / "run" / EXPERIMENT).read_text()

    first = predict()
    assert first[0] == 0 and not (tmp_path / "run/report.html").exists()
    video = callback("RolloutVideo", windows=1, fields=["tracer"], strengths=[0.3])
    assert predict(video, "Figures") == first, "the same run, now shown"
    assert len(list((tmp_path / "run/videos").iterdir())) == 1 and (tmp_path / "run/report.html").exists()
    other = callback("RolloutVideo", windows=2, fields=["velocity_x"])
    assert predict(other) == first, "shown otherwise"
    assert predict(strength=0.2) == (2, first[1])
    assert "holds results of another experiment: callbacks.Steer.strengths was [0.3]" in capsys.readouterr().err
