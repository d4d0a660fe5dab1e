"""The tables of README and docs. Stand-ins take the place of the scripts."""

import json

import pytest

from experiments import reproduce, scripts, tables
from experiments.tables import FOLDER, Column, Row, Table, look_up, render

TABLE = Table(
    [
        Column('command'),
        Column('loss', 'results.loss'),
        Column('accuracy', 'classify.accuracy.{head}', 2, min),
    ],
    [
        Row({'command': 'a', 'accuracy': ' '}, [['train_ad.py']]),
        Row(
            {'command': 'b'},
            [['train_ae.py', '--latent-dim', '8'], ['-m', 'experiments.classify', FOLDER]],
            {'head': 'one layer'},
        ),
    ],
    (0, 1),
)
RENDERED = '| command | loss | accuracy |\n| --- | --- | --- |\n| a | 0.2000 |   |\n| b | 0.2000 | 0.60 |\n'


@pytest.fixture
def scripts_run(monkeypatch, tmp_path):
    """Stand-ins of the scripts, which write a run's files; the list of the commands."""
    commands = []

    def run(script, *arguments):
        commands.append([script, *map(str, arguments)])
        if arguments[0] == 'experiments.classify':
            (arguments[-1] / 'classify.json').write_text('{"accuracy": {"one layer": 0.6}}')
        if script == '-m':
            return
        folder, seed = (arguments[arguments.index(name) + 1] for name in ('--run-dir', '--seed'))
        folder.mkdir(exist_ok=True)
        (folder / 'results.json').write_text(json.dumps({'loss': 0.1 * (seed + 1)}))

    monkeypatch.setattr(scripts, 'run_script', run)
    monkeypatch.setattr(reproduce, 'run_script', run)
    monkeypatch.setattr(scripts, 'is_finished', lambda folder: (folder / 'results.json').exists())
    monkeypatch.setitem(tables.TABLES, 'systems', TABLE)
    return commands


@pytest.fixture
def run(command, tmp_path, scripts_run):
    """run(*arguments): `command` with the reproduction, into tmp_path / 'out'."""
    return lambda *rest: command(reproduce, *rest, '--data-path', 'DIR', '--out', tmp_path / 'out')


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with the table, which --write fills in; and a folder for the figures."""
    page = tmp_path / 'page.md'
    page.write_text('Before.\n\n<!-- table: systems -->\n| old |\n| --- |\n\nAfter.\n')
    monkeypatch.setattr(reproduce, 'PAGES', (page,))
    monkeypatch.setattr(reproduce, 'RECORDS', tmp_path / 'tables')
    return page


def test_a_table_has_the_worst_of_its_seeds(run, scripts_run, tmp_path):
    status, out, err = run('systems')
    assert status == 0 and not err and RENDERED in out
    record = json.loads((tmp_path / 'out' / 'systems.json').read_text())
    assert record['rows'][1]['1'] == {'loss': 0.2, 'accuracy': 0.6} and {'date', 'torch'} < record.keys()
    assert [command[:3] for command in scripts_run if command[0] != '-m'] == [
        ['train_ad.py', '--seed', '0'],
        ['train_ad.py', '--seed', '1'],
        ['train_ae.py', '--latent-dim', '8'],
        ['train_ae.py', '--latent-dim', '8'],
    ]


def test_a_data_set_is_named_so_that_it_is_not_replaced(run, scripts_run, monkeypatch):
    rows = [
        Row({'command': 'a'}, [['train_ad.py']]),
        Row({'command': 'b'}, [['train_ae.py', '--dataset', 'mnist']]),
    ]
    monkeypatch.setitem(tables.TABLES, 'systems', Table(TABLE.columns[:2], rows, (0,)))
    run('systems')
    named = [command[command.index('--dataset') + 1] for command in scripts_run]
    assert named == ['fashion-mnist', 'mnist'] and all(c.count('--dataset') == 1 for c in scripts_run)


def test_what_is_there_is_not_run_again(run, scripts_run):
    run('systems')
    once = list(scripts_run)
    status, out, _ = run('systems')
    assert status == 0 and RENDERED in out and scripts_run == once


def test_the_tables_go_into_the_pages(run, page, tmp_path):
    run('systems')
    assert '| old |' in page.read_text()
    run('systems', '--write')
    assert page.read_text() == f'Before.\n\n<!-- table: systems -->\n{RENDERED}\nAfter.\n'
    assert (tmp_path / 'tables' / 'systems.json').exists()


def test_quick_runs_are_others(run, scripts_run, tmp_path):
    run('systems')
    status, _, _ = run('systems', '--quick')
    assert status == 0 and (tmp_path / 'out' / 'quick' / 'systems.json').exists()
    assert ['--epochs', '2'] == scripts_run[-2][scripts_run[-2].index('--epochs') :][:2]
    assert not any('1' == command[command.index('--seed') + 1] for command in scripts_run[6:-1])


def test_other_runs_come_after_quick_ones(run, scripts_run):
    assert run('systems', '--quick')[0] == 0
    status, _, err = run('systems')
    assert status == 0, err


def test_quick_figures_are_not_written(run, one_line):
    status, _, err = run('systems', '--quick', '--write')
    assert status == 2 and one_line(err) and 'leave one out' in err


def test_the_other_tables_are_made_all_the_same(run, monkeypatch, one_line):
    def no_data(script, *arguments):
        raise tables.UserError('expected train_ae.py to end without an error, got: no images')

    whole = reproduce.train_run
    monkeypatch.setattr(
        reproduce, 'train_run', lambda *a: no_data(*a) if a[1] == 'train_ae.py' else whole(*a)
    )
    monkeypatch.setitem(tables.TABLES, 'families', Table(TABLE.columns[:2], TABLE.rows[:1], (0,)))
    status, out, err = run('systems', 'families')
    assert status == 2 and one_line(err) and 'table systems: expected' in err and 'no images' in err
    assert '| a | 0.1000 |' in out


def test_a_comparison_keeps_and_renders_its_results(run, scripts_run, page, tmp_path):
    page.write_text('<!-- table: likelihood-fashion-mnist-1000 -->\n')
    (tmp_path / 'out/likelihood/cells').mkdir(parents=True)
    (tmp_path / 'out/runs').mkdir()
    cell = {'data': 'fashion-mnist-1000', 'system': 'ppca', 'posterior': 'exact', 'seed': 0, 'n_test': 9}
    (tmp_path / 'out/likelihood/cells/a.json').write_text(json.dumps({**cell, 'log_likelihood': 4.0}))
    status, out, _ = run('likelihood', '--write')
    assert status == 0 and scripts_run[0][:2] == ['-m', 'experiments.likelihood']
    assert '| PPCA | exact | 9 | 1 | -4.0 |' in out and '| PPCA | exact | 9 | 1 | -4.0 |' in page.read_text()
    assert json.loads((tmp_path / 'tables/likelihood.json').read_text())['rows'][0]['n_test'] == 9


def test_a_folder_of_other_things_is_left_alone(run, tmp_path, one_line):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'notes.txt').write_text('mine')
    status, _, err = run('systems')
    assert status == 2 and one_line(err) and '--out to be a new folder' in err


def test_a_broken_file_of_a_run(run, tmp_path, one_line):
    run('systems')
    path = tmp_path / 'out/runs/train_ad_seed0/results.json'
    path.write_text('{')
    status, _, err = run('systems')
    assert status == 2 and one_line(err) and 'expected JSON in' in err and 'delete that run' in err


def test_a_figure_that_a_run_does_not_have(run, tmp_path, one_line):
    run('systems')
    (tmp_path / 'out/runs/train_ad_seed0/results.json').write_text('{}')
    status, _, err = run('systems')
    assert status == 2 and one_line(err) and 'results.loss' in err and 'delete that run' in err


def test_modules_run_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scripts.run_script('-m', 'experiments.classify', '--help')
    with pytest.raises(tables.UserError, match='expected experiments.classify to end without an error, got'):
        scripts.run_script('-m', 'experiments.classify', 'no-run')


def test_figures_of_another_version_of_a_table():
    with pytest.raises(tables.UserError, match='figures of 2 rows, got 1; run the table again'):
        render(TABLE, {'rows': [{'0': {'loss': 1.0}}]})


def test_keys_reach_into_lists():
    assert look_up({'a': [{'b': 3}]}, 'a.0.b') == 3


@pytest.mark.parametrize('path', sorted(reproduce.RECORDS.glob('*.json')), ids=lambda path: path.stem)
def test_pages_show_the_figures_that_were_measured(path):
    pages = [page.read_text() for page in reproduce.PAGES]
    for name, text in reproduce.render_record(path.stem, json.loads(path.read_text())).items():
        assert any(f'<!-- table: {name} -->\n{text}' in page for page in pages), name


def test_every_marker_has_a_record():
    records = {path.stem: json.loads(path.read_text()) for path in reproduce.RECORDS.glob('*.json')}
    names = {name for stem in records for name in reproduce.render_record(stem, records[stem])}
    for page in reproduce.PAGES:
        for line in page.read_text().splitlines():
            if line.startswith('<!-- table: '):
                assert line.removeprefix('<!-- table: ').removesuffix(' -->') in names
