"""Open a page on this machine to look at a trained run: erase, walk, interpolate, sample, map.

Usage:
    pip install -r requirements-explore.txt
    python explore.py runs/vad-laplace
"""

import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path

from exploration import Explorer
from training import (
    UserError,
    data_path_flag,
    device_flag,
    flag,
    parse_flags,
    read_json,
    run_command,
    whole_number,
)

ADDRESS = '127.0.0.1'  # only this machine


@dataclass(frozen=True, kw_only=True)
class Options:
    """Open a page on this machine to look at a trained run: rub out a part of an image and see what the model
    makes of the rest, walk along directions of the latent space, go from image to image, draw samples, and
    see the map of the latents."""

    run: Path = flag(None, 'the run folder', Path, positional=True, metavar='RUN')
    data_path: str | None = data_path_flag(
        'where the run was trained from, or if that is gone the environment variable DATA_PATH'
    )
    device: str | None = device_flag()
    port: int = flag(7860, f'of the page, http://{ADDRESS}:PORT', whole_number, metavar='PORT')


def check_port(port: int):
    """UserError: another program has it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, port))
        except (OSError, OverflowError):
            raise UserError(
                f'expected a free port, got {port}, which is taken; name another with --port'
            ) from None


def main():
    options = parse_flags(Options)
    if importlib.util.find_spec('gradio') is None:
        raise UserError('expected the package gradio, got none; pip install -r requirements-explore.txt')
    check_port(options.port)
    explorer = Explorer(options.run, options.data_path, options.device)
    explorer.prepare()
    from exploration.page import (
        build_page,
    )  # here: Gradio is not needed otherwise, and takes seconds to import

    page = build_page(explorer, read_json(options.run / 'results.json'))
    print(f'{options.run} is shown at http://{ADDRESS}:{options.port}; Ctrl-C ends it', flush=True)
    page.launch(server_name=ADDRESS, server_port=options.port, quiet=True, inbrowser=True, footer_links=[])


if __name__ == '__main__':
    run_command(main)
