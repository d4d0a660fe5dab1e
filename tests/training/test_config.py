import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

import kernels
import train_ad
import train_ae
import train_gan
import train_vad
import train_vae
from networks import ARCHITECTURE, DECODERS
from training.data import ImageDataset
from training.errors import UserError
from training.saved_config import SYSTEMS, check_same, config_from_dict
from training.systems import ADConfig, AEConfig, GANConfig, VADConfig, VAEConfig

FILE = Path('run') / 'checkpoint.pt'
SCRIPTS = {'ad': train_ad, 'vad': train_vad, 'ae': train_ae, 'vae': train_vae, 'gan': train_gan}
# What each system may be asked for, away from its defaults.
CHANGED = {
    'ad': dict(latent_dim=3, latent_lr=0.2, decoder='mlp', bfloat16=True),
    'vad': dict(dist='laplace', n_train=500, n_test=40, seed=2**32 - 1, lr=0.5, obs_std=0.3, beta=0.5),
    'ae': dict(dropout=0.1, prune=0.5, patience=3, min_delta=0.5, weight_decay=0.01, trial=4),
    'vae': dict(
        encoder='lstm',
        likelihood='bernoulli',
        importance_samples=5,
        train_checksum=5,
        test_checksum=2**32 - 1,
    ),
    'gan': dict(model='linear', lr=0.02, epochs=3, batch_size=7),
}


def flags(config_class):
    return [field for field in dataclasses.fields(config_class) if field.metadata]


# ------------------------------------------------------------------------------------------ as a dictionary


@pytest.mark.parametrize('system', SYSTEMS)
@pytest.mark.parametrize('changed', [False, True])
def test_a_configuration_survives_json(system, changed):
    config = SYSTEMS[system](shape=(3, 64, 64), dataset='imagenette', **(CHANGED[system] if changed else {}))
    values = config.to_dict()
    assert config_from_dict(values, FILE) == config
    again = config_from_dict(json.loads(json.dumps(values)), FILE)
    assert again == config and again.to_dict() == values and type(again) is type(config)


@pytest.mark.parametrize('system', SYSTEMS)
def test_a_dictionary_names_its_system_and_what_the_run_computes(system):
    values = SYSTEMS[system](shape=(28, 28)).to_dict()
    assert values['system'] == system and 'dist' in values and 'latent_dim' in values
    place_and_looks = 'data_path device run_dir resume interpolate sweep tune grid'.split()
    assert not set(place_and_looks) & set(values)


# As the program wrote them before there were entries for what is off.
DATA = {
    'dataset': 'fashion-mnist',
    'n_train': 1000,
    'n_test': 1000,
    'shape': [28, 28],
    'train_checksum': 1,
    'test_checksum': 2,
}
LATENT = {'epochs': 27, 'batch_size': 64, 'lr': 4e-3, 'beta': 1.0, 'obs_std': 0.08, 'seed': 0}
OLDER = {
    'ad': {**LATENT, 'dist': None, 'latent_dim': 128, 'latent_lr': 0.1, 'decoder': 'groupnorm'},
    'vad': {**LATENT, 'dist': 'laplace', 'latent_dim': 60, 'latent_lr': 0.1, 'decoder': 'groupnorm'},
    'ae': {**LATENT, 'dist': None, 'latent_dim': 8, 'encoder': 'conv3', 'decoder': 'mirror'},
    'vae': {**LATENT, 'dist': 'gaussian', 'latent_dim': 60, 'encoder': 'conv', 'decoder': 'groupnorm'},
    'gan': {
        'dist': None,
        'model': 'dcgan',
        'latent_dim': 64,
        'epochs': 50,
        'batch_size': 32,
        'lr': 1e-3,
        'seed': 0,
    },
}


@pytest.mark.parametrize('system', SYSTEMS)
def test_entries_that_an_older_file_lacks_take_their_defaults(system):
    config = config_from_dict({'system': system, **DATA, **OLDER[system]}, FILE)
    data = dict(DATA, shape=(28, 28))
    dist = dict(dist=OLDER[system]['dist']) if OLDER[system]['dist'] else {}
    assert config == SYSTEMS[system](**data, **dist)  # the older defaults were the same
    if system != 'gan':
        assert not config.bfloat16 and not config.eager and config.likelihood == 'gaussian'
    assert config.patience == config.prune == config.dropout == config.weight_decay == config.min_delta == 0
    if system == 'ae':
        assert config.architecture == ARCHITECTURE and config.trial is None


def test_entries_of_other_programs_are_left_out():
    config = ADConfig(shape=(28, 28))
    assert config_from_dict({**config.to_dict(), 'colour': 'red'}, FILE) == config


def test_a_dictionary_without_system_is_no_configuration():
    values = VADConfig(shape=(28, 28)).to_dict()
    del values['system']
    with pytest.raises(UserError, match='expected a system of ad, vad, ae, vae, gan in .*, got None'):
        config_from_dict(values, FILE)


def test_a_configuration_without_a_shape_is_of_images_of_28_x_28():
    values = VADConfig(shape=(3, 8, 8)).to_dict()
    del values['shape']
    assert config_from_dict(values, FILE).shape == (28, 28)


@pytest.mark.parametrize(
    'config_class, name, value',
    [
        (VADConfig, 'epochs', 0),
        (VADConfig, 'epochs', '3'),
        (VADConfig, 'epochs', True),
        (VADConfig, 'beta', None),
        (VADConfig, 'obs_std', float('nan')),
        (VADConfig, 'lr', -1.0),
        (VADConfig, 'seed', 2**32),
        (VADConfig, 'dist', 'cauchy'),
        (VADConfig, 'decoder', ['mlp']),
        (VADConfig, 'bfloat16', 0),
        (VADConfig, 'shape', 28),
        (ADConfig, 'dataset', 'letters'),
        (AEConfig, 'architecture', 'deep'),
        (GANConfig, 'model', 'cgan'),
    ],
)
def test_a_value_that_its_flag_would_not_take(config_class, name, value):
    values = {**config_class(shape=(28, 28)).to_dict(), name: value}
    with pytest.raises(UserError, match=f'expected a valid {name} in .*, got') as error:
        config_from_dict(values, FILE)
    assert str(FILE) in str(error.value) and '\n' not in str(error.value)


def test_values_that_do_not_go_together():
    values = {**AEConfig(shape=(28, 28), encoder='mlp').to_dict(), 'dropout': 0.5}
    with pytest.raises(UserError, match='expected a configuration in .*, got this: expected --encoder conv3'):
        config_from_dict(values, FILE)


def test_the_bound_of_several_samples_has_no_beta():
    with pytest.raises(UserError, match='expected --beta 1 with --importance-samples 5, .*, got 0.5; leave'):
        VAEConfig(importance_samples=5, beta=0.5)
    assert VAEConfig(importance_samples=1, beta=0.5).beta == 0.5


@pytest.mark.parametrize('config_class', [VADConfig, VAEConfig])
@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_a_mixture_of_gaussians_is_a_prior_of_any_numbers_only(config_class, dist):
    if dist in ('uniform', 'exponential'):
        message = f'one of gaussian, laplace, gaussian-full with --prior learned, .* got {dist}; leave'
        with pytest.raises(UserError, match=message):
            config_class(dist=dist, prior='learned')
    else:
        assert config_class(dist=dist, prior='learned').prior == 'learned'
    assert config_class(dist=dist).prior == 'standard'


def test_labels_in_a_file_are_counted():
    X, own = torch.zeros(3, 4, 4), [str(label) for label in range(12)]
    for dataset, n_classes in (
        (ImageDataset(X, [0, 4, 11], 'npy', classes=own), 12),
        (ImageDataset(X, [0, 0, 0], 'npy'), 0),
        (ImageDataset(X, [0, 4, 9], 'mnist'), 0),
    ):
        assert VADConfig().with_data(dataset, dataset).n_classes == n_classes


# ----------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize(
    'changes',
    [
        dict(data_path='elsewhere'),
        dict(device='cpu'),
        dict(run_dir='elsewhere'),
        dict(resume=True),
        dict(interpolate=('bag', 'coat')),
    ],
)
@pytest.mark.parametrize('config_class', [ADConfig, VADConfig, AEConfig, VAEConfig])
def test_where_a_run_is_and_how_it_is_shown_does_not_count(config_class, changes):
    changed = config_class(**changes)
    assert changed == config_class() and changed.to_dict() == config_class().to_dict()


@pytest.mark.parametrize('system', SYSTEMS)
def test_what_a_run_computes_counts(system):
    for name, value in CHANGED[system].items():
        if name != 'min_delta':  # goes with patience
            assert SYSTEMS[system](**{name: value}) != SYSTEMS[system](), name


def test_equal_configurations_are_the_same(tmp_path):
    check_same(VADConfig().to_dict(), VADConfig(device='cpu').to_dict(), tmp_path)


def test_other_configurations_are_named_by_their_differences(tmp_path):
    saved, ours = VADConfig(seed=1, epochs=3).to_dict(), VADConfig(seed=2, epochs=3, lr=0.5).to_dict()
    with pytest.raises(UserError) as error:
        check_same(saved, ours, tmp_path)
    found = str(error.value)
    assert found.startswith(f'the checkpoint in {tmp_path} is from another configuration: ')
    assert found.endswith('if it is finished, or name another --run-dir')
    assert 'lr 0.004 (now 0.5)' in found and 'seed 1 (now 2)' in found and 'epochs' not in found
    assert '\n' not in found


def test_an_entry_of_one_of_two_configurations_is_a_difference(tmp_path):
    with pytest.raises(UserError, match=r'trial 3 \(now None\), model None \(now linear\)'):
        check_same({'trial': 3}, {'model': 'linear'}, tmp_path)


# ------------------------------------------------------------------------------------------ what follows


@pytest.mark.parametrize('decoder', DECODERS)
@pytest.mark.parametrize('config_class', [ADConfig, VADConfig, AEConfig, VAEConfig])
def test_the_learning_rate_follows_the_decoder_unless_it_is_given(config_class, decoder):
    assert config_class(decoder=decoder).lr == DECODERS[decoder].lr
    assert config_class(decoder=decoder, lr=0.5).lr == 0.5


@pytest.mark.parametrize(
    'missing_share, obs_std, latent_dim, latent_lr',
    [
        (None, 0.08, 60, 0.1),
        (0, 0.03, 128, 0.3),
        (0.8, 0.03, 128, 0.3),
        (0.85, 0.1, 128, 1),
        (1, 0.1, 128, 1),
    ],
)
def test_defaults_follow_the_share_of_missing_pixels(missing_share, obs_std, latent_dim, latent_lr):
    config = VADConfig(shape=(28, 28), missing_share=missing_share)
    assert (config.obs_std, config.latent_dim, config.latent_lr) == (obs_std, latent_dim, latent_lr)
    if missing_share is not None:  # without a KL the standard deviation only scales the loss
        assert ADConfig(shape=(28, 28), missing_share=missing_share).obs_std == 0.03
    assert VADConfig(shape=(28, 28), missing_share=missing_share, obs_std=0.5).obs_std == 0.5


def test_the_architecture_belongs_to_conv3_and_its_mirror():
    assert AEConfig().architecture == ARCHITECTURE
    assert AEConfig(encoder='mlp').architecture is None and AEConfig(decoder='mlp').architecture is None


@pytest.mark.parametrize('dist', kernels.FAMILIES)
def test_a_run_of_a_family_is_named_after_it(dist):
    assert VADConfig(dist=dist).name == f'vad-{dist}' and VAEConfig(dist=dist).name == f'vae-{dist}'


def test_other_runs_are_named_after_their_system_or_model():
    assert ADConfig().name == 'ad' and AEConfig().name == 'ae'
    assert GANConfig(model='linear').name == 'gan-linear'


# -------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize('system', SYSTEMS)
def test_every_field_with_a_flag_is_in_help(command, system):
    status, out, err = command(SCRIPTS[system], '--help')
    assert status == 0 and not err
    named = set(re.findall(r'^ +(--[\w-]+)', out, re.MULTILINE))
    assert named == {'--' + field.name.replace('_', '-') for field in flags(SYSTEMS[system])}


@pytest.mark.parametrize('system', SYSTEMS)
def test_there_is_one_way_to_say_off(system):
    """0, False or () where that is the default; None only where the value follows from something else."""
    for field in dataclasses.fields(SYSTEMS[system]):
        optional = 'None' in str(field.type)
        assert optional == (field.default is None), field.name
        if field.default is None and field.metadata:
            assert '(default: ' in field.metadata['help'], f'{field.name}: what None stands for'
        if field.default == 0 and field.name != 'seed' and field.metadata and field.metadata['type']:
            off = re.search(r'\(default: (.*?)\)', field.metadata['help'])
            assert off is None or off[1] in ('0', 'no early stopping'), field.name


@pytest.mark.parametrize(
    'n, epochs, of_a_gan', [(1, 27, 50), (1000, 27, 50), (20_000, 21, 21), (60_000, 21, 21), (10**7, 1, 1)]
)
def test_many_images_are_shown_in_fewer_epochs(n, epochs, of_a_gan):
    known = dict(n_train=n, shape=(28, 28))
    assert VADConfig(**known).epochs == VAEConfig(**known).epochs == epochs
    assert GANConfig(**known).epochs == of_a_gan
    assert VADConfig(**known, epochs=40).epochs == 40
