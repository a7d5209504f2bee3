import subprocess
import sys

import pytest

import ldm_text
from ldm_text import cli
from ldm_text.loading import load_pipeline
from ldm_text.pipeline import LatentTextPipeline

# Tells on standard output which of the heavy packages a command has imported.
IMPORTED = """
import sys
from ldm_text import cli
try:
    cli.main()
finally:
    heavy = ("torch", "lightning", "diffusers", "transformers", "datasets", "matplotlib")
    sys.stdout.write("imported:" + ",".join(name for name in heavy if name in sys.modules))
"""


def run_alone(*arguments):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-c", IMPORTED, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_names_all_commands_and_imports_nothing_heavy():
    result = run_alone("--help")
    assert result.returncode == 0
    for command in (*cli.TRAINING, *cli.COMMANDS):
        assert f"  {command} " in result.stdout
    assert result.stdout.endswith("imported:")


def test_the_package_loads_pipelines_and_imports_nothing_heavy_before():
    assert {"LatentTextPipeline", "load_pipeline"} == set(ldm_text.__all__)
    assert ldm_text.LatentTextPipeline is LatentTextPipeline
    assert ldm_text.load_pipeline is load_pipeline
    with pytest.raises(AttributeError, match="has no attribute 'load'"):
        _ = ldm_text.load


def test_no_command_at_all_shows_the_help(main):
    assert main() == main("--help")


def test_help_of_a_command_names_its_options(main):
    code, output, _ = main("generate", "--help")
    assert code == 0
    for option in (
        "pipeline",
        "prompts",
        "output",
        "num_inference_steps",
        "guidance_scale",
        "seed",
    ):
        assert f"--{option}" in output


def test_unknown_command_is_refused(main):
    code, output, error = main("sample")
    assert (code, output) == (2, "")
    assert error.startswith("ldm-text: error: unknown command 'sample': expected one of fit, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "`--pipeline` must be given."),
        (("--pipeline", "x", "--sead", 1), "unrecognized arguments: --sead 1."),
        (("--pipeline", "x", "--num_inference", 1), "unrecognized arguments: --num_inference 1."),
        (("--pipeline", "x", "--seed", "one"), "`--seed`: expected int, got one."),
        (("--pipeline", "x", "--truncate", "maybe"), "`--truncate`: expected bool, got maybe."),
        (
            ("--pipeline", "x", "--scheduler", "ddim"),
            "`--scheduler`: expected one of 'euler', 'euler_stochastic', 'dpm++', 'dpm++_sde', "
            "'heun', 'lcm', 'flow_map', got ddim.",
        ),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(main, arguments, message):
    error = f"ldm-text: error: {message} See ldm-text generate --help.\n"
    assert main("generate", *arguments) == (2, "", error)


def run_failing(error):
    def run():
        raise error

    cli.with_one_line_errors(run)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("a\n  b"), 2, "a b."),
        (FileNotFoundError(2, "No such file", "x"), 2, "[Errno 2] No such file: 'x'."),
        (OSError(), 2, "OSError."),
        (KeyboardInterrupt(), 130, "interrupted."),
    ],
)
def test_known_errors_are_one_line(capsys, error, code, message):
    with pytest.raises(SystemExit) as stop:
        run_failing(error)
    assert stop.value.code == code
    assert capsys.readouterr() == ("", f"ldm-text: error: {message}\n")


def test_notes_of_an_error_belong_to_its_line(capsys):
    error = KeyboardInterrupt()
    error.add_note("`x.partial` holds 3 lines.")
    with pytest.raises(SystemExit):
        run_failing(error)
    assert capsys.readouterr().err == "ldm-text: error: interrupted. `x.partial` holds 3 lines.\n"


def test_errors_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_failing(ZeroDivisionError())


def test_debug_mode_keeps_every_traceback(monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="bad"):
        run_failing(ValueError("bad"))


def test_generating_starts_without_lightning_and_without_a_word(pipeline_folder):
    result = run_alone("generate", "--pipeline", pipeline_folder, "--num_inference_steps", 2)
    assert result.returncode == 0
    assert result.stderr == ""
    assert result.stdout.endswith("imported:torch,diffusers,transformers")


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_output_to_a_full_disk_fails(flags):
    command = [sys.executable, *flags, "-c", "from ldm_text import cli; cli.main()", "--help"]
    with open("/dev/full", "w") as full:
        options = {"stdout": full, "stderr": subprocess.PIPE, "text": True, "check": False}
        result = subprocess.run(command, **options)
    assert result.stderr == "ldm-text: error: [Errno 28] No space left on device.\n"
    assert result.returncode == 2
