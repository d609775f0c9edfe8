"""Our command, called in the process of the test: no interpreter starts for it."""

from click.testing import CliRunner

from nnunet_bridge.cli import main


def bridge(*words, check=True, environment=None):
    """Run a command; return what it printed and its exit code."""
    result = CliRunner().invoke(main, list(map(str, words)), env=environment)
    if check:
        assert result.exit_code == 0, result.output
    return result
