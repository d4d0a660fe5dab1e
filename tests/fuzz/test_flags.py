"""Command lines with odd values: each ends in one line before anything is trained, graded or written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evaluate
import train_vad
from training.errors import UserError
from training.systems import VADConfig

COMMANDS = settings(max_examples=settings().max_examples // 2)

# No sizes from 10,000 to 2^31 - 1 but the last: they are right, and would take all memory.
NUMBERS = '0 1 2 3 -1 1.5 -0 +2 1e3 1e-400 1e999 nan -inf 0x10 1_0 2147483647 2147483648 4294967296'.split()
NUMBERS += [' 3 ', '9' * 30, '9' * 5000, '\u0663', '\u00b2']
TEXTS = 'x all cpu cuda cuda:99 cuda:-1 meta dress - -- -x @x %s gaussian mlp conv64 digits npy'.split()
TEXTS += ['', ' ', '\udcff', '\u2603', '\x1b[31m']
PATHS = [*'. .. /dev/null /dev/null/x nowhere nowhere/x.npy run data'.split(), 'a file', 'x' * 300]
VALUES = st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.sampled_from(PATHS)
# No program gets a zero byte, and a warning prints a line end as it is.
ANY_TEXT = st.text(st.characters(codec='utf-8', exclude_characters='\0\n'), max_size=5)


def command_lines(options_class, *more):
    """Lists of the flags of a command and some that it has not, each with none, one or two values."""
    flags = ['--' + name.replace('_', '-') for name in options_class.__dataclass_fields__]
    flag = st.sampled_from([*flags, '--help', '-h', '--no-such-flag', '--lr=', '--epoch', *more])
    values = st.lists(VALUES | ANY_TEXT, max_size=2) | st.lists(VALUES, min_size=1, max_size=1)
    return st.lists(st.tuples(flag, values), max_size=4).map(
        lambda words: [word for flag, values in words for word in (flag, *values)]
    )


@pytest.fixture
def stopped(command, run_dir, csv_dir, tmp_path, monkeypatch, contents):
    """stopped(module, *arguments): the command ends in one line, or shows its help, and changes nothing."""

    def stop(*_):
        raise UserError('everything was right so far')

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a file').touch()
    monkeypatch.setattr(train_vad, 'open_run', stop)  # called when data and model are there
    monkeypatch.setattr(evaluate, 'infer_latents', stop)
    before = contents(tmp_path)

    def run(module, *arguments):
        status, out, err = command(module, *arguments)
        if status == 0:
            assert out.startswith('usage: ') and not err
        else:  # evaluate.py has a line for each run that is named
            lines = err.split('\n')[:-1]
            assert status == 2 and all(line.startswith(('error: ', 'warning: ')) for line in lines), err
        assert contents(tmp_path) == before

    return run


@COMMANDS
@given(flags=command_lines(VADConfig))
def test_flags_of_a_training(stopped, csv_dir, flags):
    stopped(train_vad, '--data-path', csv_dir, '--device', 'cpu', *flags)


@COMMANDS
@given(flags=command_lines(evaluate.Options, 'run'))
def test_flags_of_grading(stopped, run_dir, flags):
    stopped(evaluate, run_dir, *flags)
