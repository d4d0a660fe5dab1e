"""What evaluate.py writes, and what it must not write over."""

import evaluate


def test_json_of_no_grades_leaves_an_older_file(command, tmp_path):
    path = tmp_path / 'grades.json'
    path.write_text('older')
    status, _, _ = command(evaluate, tmp_path / 'none', '--json', path)
    assert status == 2 and path.read_text() == 'older'


def test_json_replaces_no_file_of_a_run(command, run_dir, one_line, contents):
    before = contents(run_dir)
    status, _, err = command(evaluate, run_dir, '--json', run_dir / 'checkpoint.pt')
    assert status == 2 and one_line(err) and 'expected --json to name a file outside of the runs' in err
    assert contents(run_dir) == before


def test_a_picture_of_older_likelihoods_goes_with_them(command, run_dir):
    (run_dir / 'likelihood.png').write_bytes(b'')
    assert command(evaluate, run_dir)[0] == 0 and (run_dir / 'likelihood.png').exists()
    assert command(evaluate, run_dir, '--refine', 'own')[0] == 0
    assert not (run_dir / 'likelihood.png').exists()


def test_a_folder_of_runs_is_no_run(command, run_dir, one_line):
    status, _, err = command(evaluate, run_dir.parent)
    assert status == 2 and one_line(err) and f'name one of the runs in it, {run_dir.name} say' in err


def test_json_in_a_folder_that_does_not_exist(command, run_dir, tmp_path, one_line):
    status, _, err = command(evaluate, run_dir, '--json', tmp_path / 'no' / 'x.json')
    assert status == 2 and one_line(err) and 'existing folder' in err
