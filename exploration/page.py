"""The page, by Gradio: a tab for each thing that one can do. It computes nothing itself."""

import contextlib
import os
import tempfile
from pathlib import Path

os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'  # nothing leaves this machine; read when it is imported
os.environ['HF_HUB_OFFLINE'] = '1'

import gradio as gr
import numpy as np

from evaluation.drawing import save_gif
from evaluation.maps import class_colours
from evaluation.names import summarise
from exploration.explorer import DIRECTIONS, PER_ROW, STRIP, Explorer
from training import UserError


@contextlib.contextmanager
def on_the_page():
    """What the user can mend is one line on the page."""
    try:
        yield
    except UserError as error:
        raise gr.Error(str(error), print_exception=False) from None


def build_page(explorer: Explorer, results: dict) -> gr.Blocks:
    """results: of the run, results.json."""
    # Removed with the page. Gradio's own folder is the same for all programs of a machine, and a page that
    # closes deletes its files there, also those that another page with the same pictures still shows.
    folder = tempfile.TemporaryDirectory()
    os.environ['GRADIO_TEMP_DIR'] = folder.name
    hour = 3600  # seconds that Gradio keeps its copies of pictures
    with gr.Blocks(title='explore', analytics_enabled=False, delete_cache=(hour, hour)) as page:
        gr.Markdown(summarise(results | explorer.config.to_dict()))
        if explorer.has_latents:
            erase_tab(explorer)
            walk_tab(explorer)
        between_tab(explorer, folder)
        draw_tab(explorer)
        if explorer.has_latents:
            map_tab(explorer)
    return page


def image_slider(explorer: Explorer, label: str = 'test image', value: int = 0) -> gr.Slider:
    return gr.Slider(0, len(explorer.test_set) - 1, value, step=1, label=label)


def shown(label: str, value: np.ndarray | None = None) -> gr.Image:
    return gr.Image(value, label=label, format='png', interactive=False, buttons=[])


def erase_tab(explorer: Explorer):
    def editor_value(i):
        return {'background': explorer.original(i), 'layers': [], 'composite': None}

    def fill_in(drawn):
        with on_the_page():
            if drawn is None or drawn['background'] is None:
                raise UserError('expected a picture, got none; choose a test image')
            image = explorer.read(drawn['background'])
            painted = np.zeros(drawn['background'].shape[:2], bool)
            for layer in drawn['layers']:
                painted |= layer[..., 3] > 0
            pictures = explorer.fill_in(image, explorer.erased(painted))
        return [(picture, name) for name, picture in pictures.items()]

    with gr.Tab('Erase and fill in'):
        gr.Markdown(
            'Paint over a part of the image: it counts as missing, and the model fills it in from the rest.'
        )
        index = image_slider(explorer)
        height, width = (side * explorer.scale for side in explorer.model.shape[-2:])
        # Not in a row: the editor would place the image by the width that it had before the row was laid out.
        editor = gr.ImageEditor(
            editor_value(0),
            label='paint here',
            sources=('upload',),
            transforms=(),
            brush=gr.Brush(default_size=36, colors=['#78a0e6'], color_mode='fixed'),
            canvas_size=(width, height),
            layers=False,
            format='png',
            height=height + 100,
        )
        button = gr.Button('Fill in')
        gallery = gr.Gallery(label='what the model makes of it', columns=6, format='png', height=240)
        # No sign of progress: for each, the editor would draw itself anew, and the answer come later.
        button.click(fill_in, editor, gallery, api_name='fill_in', show_progress='hidden')
        index.release(editor_value, index, editor, api_name=False)
        editor.apply(fill_in, editor, gallery, api_name=False, show_progress='hidden')


def walk_tab(explorer: Explorer):
    def walk(i, *steps):
        return explorer.walk(int(i), list(steps))

    with gr.Tab('Walk'):
        gr.Markdown(
            'Move a test image along the directions in which training images differ most, in their spread.'
        )
        with gr.Row():
            with gr.Column():
                number = min(DIRECTIONS, explorer.model.latent_dim)
                index = image_slider(explorer)
                steps = [gr.Slider(-3, 3, 0, step=0.1, label=f'direction {k + 1}') for k in range(number)]
            picture = shown('decoded', walk(0, *[0.0] * number))
        for slider in (index, *steps):
            slider.input(walk, [index, *steps], picture, api_name='walk', show_progress='hidden')


def between_tab(explorer: Explorer, folder: tempfile.TemporaryDirectory):
    def between(a, b, t, arc):
        return explorer.picture(explorer.between(int(a), int(b), [t], arc == 'arc')[0])

    def strip(a, b, arc):
        places = np.linspace(0, 1, STRIP).tolist()
        images = explorer.between(int(a), int(b), places, arc == 'arc')
        path = Path(folder.name) / 'between.gif'
        save_gif(np.concatenate([images.cpu(), images.cpu().flip(0)[1:-1]]), path)
        return explorer.grid(images, STRIP), str(path)

    with gr.Tab('Between'):
        gr.Markdown('From one image to another through the latent space.')
        if explorer.has_latents:
            last, path = min(1, len(explorer.test_set) - 1), 'straight'
            a, b = (
                image_slider(explorer, f'{word} test image', i) for word, i in (('from', 0), ('to', last))
            )
        else:  # on the straight line the middle would be too short for a draw from the prior
            last, path = 1, 'arc'
            a, b = (gr.Slider(0, 1000, i, step=1, label=f'draw {i + 1}, its seed') for i in (0, 1))
        arc = gr.Radio(['straight', 'arc'], value=path, label='path')
        t = gr.Slider(0, 1, 0.5, step=0.02, label='how far')
        with gr.Row():
            picture = shown('decoded', between(0, last, 0.5, path))
            with gr.Column():
                row, gif = shown('the whole way'), gr.File(label='the whole way as an animation, to keep')
        for control in (a, b, arc, t):
            control.input(between, [a, b, t, arc], picture, api_name='between', show_progress='hidden')
        gr.Button('Show the whole way').click(strip, [a, b, arc], [row, gif], api_name='strip')


def draw_tab(explorer: Explorer):
    with gr.Tab('Draw'):
        gr.Markdown(
            f'Rows of {PER_ROW} samples; below each row the training images that are nearest in pixels.'
        )
        ways = ['prior', 'two-stage', 'mixture'] if explorer.has_latents else ['prior']
        way = gr.Radio(ways, value=ways[-1], label='from')
        seed = gr.Number(0, label='seed', precision=0, minimum=0, maximum=2**32 - 1)
        picture = shown('samples', explorer.draw(ways[-1], 0))
        gr.Button('Draw').click(
            lambda way, seed: explorer.draw(way, int(seed)), [way, seed], picture, api_name='draw'
        )


def map_tab(explorer: Explorer):
    def choose(event: gr.SelectData):
        i = explorer.at(*event.index)
        name = explorer.test_set.classes[int(explorer.test_set.y[i])]
        return explorer.map(i), explorer.original(i), explorer.reconstruction(i), f'test image {i}: {name}'

    classes = zip(class_colours(explorer.test_set), explorer.test_set.classes)
    legend = ' '.join(f'<span style="color: {colour}">●</span> {name}' for colour, name in classes)
    with gr.Tab('Map'):
        gr.Markdown('Test latents, mapped to the plane by t-SNE. Click on a point to see its image.')
        with gr.Row():
            chart = gr.Image(
                explorer.map(), label='map', format='png', interactive=False, buttons=[], scale=2
            )
            with gr.Column():
                gr.Markdown(legend)
                caption, image = gr.Markdown(), shown('original')
                decoded = shown('reconstruction')
        chart.select(choose, None, [chart, image, decoded, caption], api_name=False)
