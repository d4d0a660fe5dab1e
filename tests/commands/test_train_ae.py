"""train_ae.py: its regularisers, its flags, its picture of the codes."""

import json

import pytest

import train_ae


def test_a_run_with_all_regularisers(train, tmp_path):
    regularisers = ['--dropout', '0.1', '--prune', '0.3', '--patience', '5', '--min-delta', '0.5']
    status, out, err = train(train_ae, *regularisers, '--weight-decay', '0.01', '--latent-dim', '3')
    assert status == 0 and not err and 'test_loss' in out
    folder = tmp_path / 'run'
    results = json.loads((folder / 'results.json').read_text())
    assert results['zero_weights'] == pytest.approx(0.3, abs=0.01) and results['best_epoch'] == 2
    assert results['n_held_out'] == 6 and results['dropout'] == 0.1 and results['min_delta'] == 0.5
    assert (folder / 'codes.png').exists() and 'principal components' in (folder / 'report.html').read_text()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--dropout', '1'], 'expected a number of at least 0 and below 1, got 1'),
        (['--prune', '-0.1'], 'expected a number of at least 0 and below 1, got -0.1'),
        (['--prune', 'half'], "invalid number value: 'half'"),
        (['--patience', '0'], 'from 1 to'),
        (['--min-delta', '1'], 'expected --min-delta together with --patience'),
        (
            ['--dropout', '0.1', '--encoder', 'lstm'],
            'and --decoder mirror for --dropout and --tune, got lstm',
        ),
        (['--tune', '2', '--decoder', 'mlp'], 'got conv3 and mlp; leave out one or the other'),
        (['--sweep', '2,x'], 'list of latent sizes (as in 2,4,8)'),
        (['--sweep', '2,2'], 'expected different latent sizes, got 2,2'),
        (['--sweep', '2,0'], 'from 1 to'),
        (['--sweep', '2', '--tune', '2'], 'not allowed with argument'),
        (['--weight-decay', '-1'], 'expected a number of at least 0'),
        (['--prune', '0.5', '--encoder', 'lstm'], 'two epochs or more for --prune, got lstm and the default'),
        (['--prune', '0.5', '--epochs', '1'], 'for --prune, got conv3 and 1'),
        (['--patience', '2', '--n-train', '1'], 'expected two training images or more'),
        (['--sweep', '2', '--dataset', 'mnist', '--data-path', 'nowhere'], 'expected mnist in nowhere'),
        (['--tune', '2', '--dataset', 'mnist', '--data-path', 'nowhere'], 'expected mnist in nowhere'),
    ],
)
def test_bad_flags_get_one_line(command, csv_dir, tmp_path, one_line, arguments, message):
    status, out, err = command(train_ae, '--data-path', csv_dir, '--run-dir', tmp_path / 'run', *arguments)
    assert status == 2 and one_line(err) and message in err and not out
    assert not (tmp_path / 'run').exists()
