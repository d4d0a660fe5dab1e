"""Configurations read from a checkpoint: whether they are some, and whether they are the same."""

import argparse
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import networks
from training.config import Config
from training.errors import UserError
from training.schema import refuse
from training.systems import ADConfig, AEConfig, GANConfig, VADConfig, VAEConfig

SYSTEMS = {system.system: system for system in (ADConfig, VADConfig, AEConfig, VAEConfig, GANConfig)}


def is_right(value: Any, field: dataclasses.Field, hint: Any) -> bool:
    """Whether a field may have this value: of the type of its hint, and such as its flag takes."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [typing.get_origin(kind) or kind for kind in kinds]  # of tuple[int, ...], tuple
    kinds += [int] if float in kinds else []
    if type(value) not in kinds:
        return False
    if 'choices' in field.metadata and value not in (*field.metadata['choices'], field.default):
        return False
    if field.metadata.get('type') and value != field.default and value is not None:
        try:
            return field.metadata['type'](str(value)) == value
        except (ValueError, argparse.ArgumentTypeError):
            return False
    return True


def config_from_dict(values: dict, path: Path) -> Config:
    """The configuration that to_dict gave, from the file in path. Entries that an older program did not write
    have their defaults.

    UserError: it is none.
    """
    config_class = SYSTEMS.get(str(values.get('system')))
    if config_class is None:
        refuse(f'a system of {", ".join(SYSTEMS)}', repr(values.get('system'))[:50], path)
    hints, chosen = typing.get_type_hints(config_class), {'shape': networks.SHAPE}
    for field in dataclasses.fields(config_class):
        if field.compare and field.name in values:
            value = values[field.name]
            value = tuple(value) if isinstance(value, list) else value  # as it comes back from JSON
            if not is_right(value, field, hints[field.name]):
                refuse(f'a valid {field.name}', repr(value)[:50], path)
            chosen[field.name] = value
    try:
        return config_class(**chosen)
    except UserError as error:  # of values that do not go together
        refuse('a configuration', f'this: {error}', path)


def check_same(saved: dict, ours: dict, folder: Path):
    """UserError: the configuration saved in folder is not ours. Both as to_dict gives them."""
    names = [name for name in saved | ours if saved.get(name) != ours.get(name)]
    if names:
        differences = ', '.join(f'{name} {saved.get(name)} (now {ours.get(name)})' for name in names)
        raise UserError(
            f'the checkpoint in {folder} is from another configuration: {differences}; '
            f'resume with the flags it was started with, replace it without --resume if it is finished, or '
            f'name another --run-dir'
        )
