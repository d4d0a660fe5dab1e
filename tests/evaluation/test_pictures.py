import pytest
import torch
from PIL import Image

from evaluation.drawing import save_gif, save_rows
from evaluation.maps import draw_codes


@pytest.mark.parametrize('shape', [(7, 20, 30), (7, 3, 20, 30)])
def test_gif(tmp_path, shape):
    save_gif(torch.rand(shape) * 300 - 20, tmp_path / 'x.gif')
    with Image.open(tmp_path / 'x.gif') as gif:
        assert gif.n_frames == 7 and gif.size == (210, 140)
        assert gif.info['duration'] == 100 and gif.info['loop'] == 0


@pytest.mark.parametrize('n', [40, 1])
def test_codes_that_are_all_equal_are_drawn(digits, tmp_path, n):
    draw_codes(digits[1].part(slice(n)), torch.full((n, 8), 0.5), tmp_path / 'codes.png')
    assert (tmp_path / 'codes.png').exists()


@pytest.mark.parametrize('shape', [(1, 1), (3000, 1), (1, 3000), (70_000, 1)])
def test_images_of_a_single_row_or_column_are_drawn(tmp_path, shape):
    images = torch.zeros(2, *shape)
    save_gif(images, tmp_path / 'x.gif')
    save_rows([('zeros', images)], tmp_path / 'x.png', 8)
    for name, limit in (('x.gif', 65_535), ('x.png', 10_100)):
        with Image.open(tmp_path / name) as picture:
            assert max(picture.size) <= limit
