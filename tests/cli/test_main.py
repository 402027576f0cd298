"""The front door of the command line: help, version, and errors as one sentence."""

import subprocess
import sys

import pytest

from aronnax import __version__
from aronnax.cli import main as front


def status(arguments: list[str]) -> int:
    """The exit status of `aronnax ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        front.main(arguments)
    return int(stopped.value.code or 0)


def test_help_lists_every_verb(capsys):
    assert status(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(verb in page for verb in front.VERBS)


@pytest.mark.parametrize("verb", front.VERBS)
def test_every_verb_has_a_manual(verb, capsys):
    assert status([verb, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_version_is_printed(capsys):
    front.main(["--version"])
    assert capsys.readouterr().out == f"aronnax {__version__}\n"


def test_an_error_raised_on_purpose_is_one_sentence_and_status_2(capsys):
    assert status(["info", "no/such.nemo"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "no/such.nemo" in said
    assert "Traceback" not in said


def test_a_file_where_a_folder_belongs_is_one_sentence_that_names_it(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("one two three\ntwo three one\n")
    (tmp_path / "taken").write_text("")
    asked = [
        "tokenizer",
        str(tmp_path / "texts.txt"),
        "--out",
        str(tmp_path / "taken"),
        "--type",
        "characters",
    ]
    assert status(asked) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'taken'}: File exists\n"


@pytest.mark.parametrize(
    ("file", "change", "said"), [("absent.yaml", "a=1", "no such"), ("a.yaml", "fast", "override")]
)
def test_training_without_its_file_is_told_before_the_heavy_imports(file, change, said, tmp_path):
    (tmp_path / "a.yaml").write_text("output: out\n")
    code = (
        "import sys\n"
        "from aronnax.cli.main import main\n"
        f"try:\n    main(['train', {str(tmp_path / file)!r}, {change!r}])\n"
        "except SystemExit as stopped:\n    print(stopped.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("translate -m digits --to fr", "digits is a hybrid model, which does not translate"),
        ("translate -m digits-canary --to xx", "--to xx is not a language"),
        ("translate -m digits-canary --to fr --beam 0", "--beam 0 must be"),
        ("diarize --speakers 9", "--speakers 9 is outside 1..4"),
        ("diarize --channels left", "--channels left is not known"),
        ("diarize --device abacus", "--device abacus is not known"),
    ],
)
def test_errors_name_options_as_they_are_typed(arguments, said, capsys):
    verb, *options = arguments.split()
    assert status([verb, "absent.wav", *options]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_an_unknown_verb_is_refused(capsys):
    assert status(["transmogrify"]) == 2
    assert "transmogrify" in capsys.readouterr().err
