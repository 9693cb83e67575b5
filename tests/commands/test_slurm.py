"""The SLURM scripts: they are valid, say what they would run, and physteer accepts that line."""

import os
import shlex
import shutil
import subprocess

import pytest
import yaml
from helpers.paths import ROOT

from physteer.cli import main

SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))


def dry_run(script, *words, config="run.yaml", cwd=None, **variables):
    """Run a script with DRY_RUN=1 in an environment with nothing but `variables`."""
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1"} | ({"CONFIG": config} if config else {}) | variables
    return subprocess.run(
        ["bash", script, *words], env=environment, cwd=cwd, capture_output=True, text=True, timeout=60
    )


def srun_line(*args, **kwargs):
    done = dry_run(*args, **kwargs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return shlex.split(done.stdout)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.yaml").write_text("trainer:\n  max_steps: 1\n")
    return tmp_path


def test_scripts_are_there():
    assert [s.name for s in SCRIPTS] == ["fit.sbatch", "predict.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
class TestScript:
    def test_syntax(self, script):
        subprocess.run(["bash", "-n", script], check=True)

    @pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
    def test_shellcheck(self, script):
        done = subprocess.run(["shellcheck", "--norc", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout

    def test_options_survive_a_requeue(self, script):
        options = [line.split()[1] for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
        assert "--requeue" in options
        assert "--open-mode=append" in options  # or the requeued job would wipe the log
        assert "--output=%x-%j.out" in options
        signal = "USR1@90" if script.stem == "fit" else "B:USR1@90"
        assert f"--signal={signal}" in options

    def test_one_process_without_any_setting(self, script, folder):
        line = srun_line(script, cwd=folder)
        assert line[:4] == ["srun", "--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]
        assert line[line.index("physteer") :] == [
            "physteer",
            script.stem,
            "--config=run.yaml",
            "--trainer.default_root_dir=runs/run-local",
            "--trainer.num_nodes=1",
            "--trainer.devices=1",
        ]

    @pytest.mark.parametrize("granted", ["4", "a100:4"])
    def test_one_process_per_gpu_on_every_node(self, script, folder, granted):
        line = srun_line(script, cwd=folder, SLURM_JOB_NUM_NODES="2", SLURM_GPUS_PER_NODE=granted, SLURM_JOB_ID="77")
        assert line[1:4] == ["--nodes=2", "--ntasks=8", "--ntasks-per-node=4"]
        assert {"--trainer.num_nodes=2", "--trainer.devices=4", "--trainer.default_root_dir=runs/run-77"} <= set(line)

    def test_processes_without_gpus(self, script, folder):
        line = srun_line(script, cwd=folder, SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE="2")
        assert line[1:4] == ["--nodes=2", "--ntasks=4", "--ntasks-per-node=2"]
        assert not any("gpu" in word for word in line)

    def test_more_processes_than_gpus_is_an_error(self, script, folder):
        done = dry_run(script, cwd=folder, GPUS_PER_NODE="2", PROCESSES_PER_NODE="3")
        assert done.returncode == 2
        assert "3 processes per node, but 2 GPUs" in done.stderr

    @pytest.mark.parametrize(("config", "message"), [(None, "CONFIG is not set"), ("no.yaml", "no file 'no.yaml'")])
    def test_bad_config_is_one_line(self, script, folder, config, message):
        done = dry_run(script, config=config, cwd=folder)
        assert done.returncode == 2
        assert message in done.stderr and done.stderr.count("\n") == 1

    def test_words_configs_and_command_are_passed_on(self, script, folder):
        (folder / "more.yaml").write_text("")
        line = srun_line(
            script,
            "--trainer.callbacks=[a, b]",
            cwd=folder,
            config="run.yaml more.yaml",
            EXTRA_ARGS="--trainer.precision=bf16-mixed --data.batch_size=2",
            PHYSTEER="apptainer exec image.sif physteer",
            RUN_DIR="elsewhere",
        )
        assert line[line.index("apptainer") :][:4] == ["apptainer", "exec", "image.sif", "physteer"]
        assert [word for word in line if word.startswith("--config")] == ["--config=run.yaml", "--config=more.yaml"]
        assert line[-3:] == ["--trainer.precision=bf16-mixed", "--data.batch_size=2", "--trainer.callbacks=[a, b]"]
        assert "--trainer.default_root_dir=elsewhere" in line

    def test_dry_run_makes_nothing(self, script, folder):
        srun_line(script, cwd=folder)
        assert [p.name for p in folder.iterdir()] == ["run.yaml"]


class TestRestart:
    @pytest.fixture
    def fit(self):
        return next(s for s in SCRIPTS if s.stem == "fit")

    def test_first_start_takes_no_checkpoint(self, fit, folder):
        assert not any("ckpt" in word for word in srun_line(fit, cwd=folder, SLURM_JOB_ID="7"))

    def test_later_starts_leave_the_choice_to_physteer(self, fit, folder):
        line = srun_line(fit, cwd=folder, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="1")
        assert line[-1] == "--ckpt_path=last"


@pytest.mark.parametrize(("script", "config"), [("fit", "fit"), ("predict", "steer")])
def test_physteer_accepts_the_line(script, config, capsys):
    path = f"configs/demo/{config}.yaml"
    variables = {"SLURM_JOB_NUM_NODES": "2", "GPUS_PER_NODE": "4", "RUN_DIR": "runs/there", "SLURM_RESTART_COUNT": "1"}
    words = ["--trainer.enable_model_summary=false"]
    line = srun_line(ROOT / f"slurm/{script}.sbatch", *words, config=path, cwd=ROOT, PHYSTEER="physteer", **variables)
    arguments = line[line.index("physteer") + 1 :]
    arguments[1] = f"--config={ROOT / path}"  # the tests may run in another folder
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--print_config"])
    assert end.value.code in (0, None)
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert (trainer["num_nodes"], int(trainer["devices"]), trainer["default_root_dir"]) == (2, 4, "runs/there")
    assert trainer["enable_model_summary"] is False
