"""Data files, sound and with one thing broken: load_images gives the images in them, or one line that names
the file.

Each kind of file has a second, plain reader here, to compare with.
"""

import csv
import gzip
import io
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import train_ad
from training.data import load_images
from training.errors import UserError

COMMANDS = settings(max_examples=settings().max_examples // 10)
PARTS = 'train', 'test'
IDX = [f'{part}-{kind}-ubyte' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')]


@st.composite
def images_and_labels(draw, shape=None):
    """Training X, y and test X, y: uint8 [n, *shape] and [n]. shape: None: any."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = shape or draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    arrays = []
    for n in draw(st.tuples(st.integers(1, 4), st.integers(1, 4))):
        arrays += [rng.integers(0, 256, (n, *shape), np.uint8), rng.integers(0, 10, n, np.uint8)]
    return arrays


def read(data_path):
    """What load_images reads, four arrays; None: it says in one line that it cannot, and names the file."""
    before = sorted(data_path.parent.rglob('*'))
    try:
        train, test = load_images(data_path)
    except UserError as error:
        assert '\n' not in str(error) and str(data_path) in str(error)
        return None
    finally:
        assert sorted(data_path.parent.rglob('*')) == before
    return [x.numpy() for x in (train.X, train.y, test.X, test.y)]


def assert_equal(arrays, expected):
    assert len(arrays) == len(expected) and all(map(np.array_equal, arrays, expected))


# ------------------------------------------------------------------------------------- the course's CSV


@st.composite
def csv_content(draw, X, y):
    """Images and labels as one of many programs writes them, bytes."""
    cell = draw(st.sampled_from(['{}', '{}.0', '"{}"', ' {}']))
    name = draw(st.sampled_from(['{}', '"{}"']))
    end = draw(st.sampled_from(['\n', '\r\n', '\r']))
    lines = [','.join(name.format(x) for x in ['label', *(f'pixel{i}' for i in range(1, 785))])]
    lines += [','.join(map(cell.format, [label, *image.flatten()])) for label, image in zip(y, X)]
    last = draw(st.sampled_from(['', end, 3 * end, end + '  ' + end]))
    return draw(st.sampled_from([b'', b'\xef\xbb\xbf'])) + (end.join(lines) + last).encode()


def write_csv(data, folder):
    """Draw sound files and write them; returns their arrays."""
    arrays = data.draw(images_and_labels((28, 28)))
    for part, X, y in zip(PARTS, arrays[::2], arrays[1::2]):
        (folder / f'fashion-mnist_{part}.csv').write_bytes(data.draw(csv_content(X, y)))
    return arrays


def plain_csv(path):
    """X and y of a CSV file, by Python's csv module. ValueError: there is something else in it."""
    text = io.StringIO(path.read_bytes().decode('latin-1'), newline=None)  # None: each kind of line end
    text.readline()  # the header
    rows = [[float(cell) for cell in row] for row in csv.reader(text) if ''.join(row).strip()]
    table = np.array(rows)
    if table.shape[1] != 785 or (table != table.astype(np.uint8)).any() or table[:, 0].max() > 9:
        raise ValueError
    return table[:, 1:].reshape(-1, 28, 28), table[:, 0]


@given(data=st.data())
def test_csv_files_of_any_program_are_read(empty_folder, data):
    folder = empty_folder()
    expected = write_csv(data, folder)
    assert_equal(read(folder), expected)
    assert_equal([*plain_csv(folder / 'fashion-mnist_train.csv')], expected[:2])


@given(data=st.data())
def test_a_broken_csv_file(empty_folder, break_file, data):
    folder = empty_folder()
    write_csv(data, folder)
    paths = [folder / f'fashion-mnist_{part}.csv' for part in PARTS]
    break_file(data, data.draw(st.sampled_from(paths)))
    arrays = read(folder)
    if arrays:
        assert_equal(arrays, [*plain_csv(paths[0]), *plain_csv(paths[1])])


@COMMANDS
@given(data=st.data())
def test_a_broken_csv_file_ends_a_command(
    command, empty_folder, break_file, refused_in_one_line, names, monkeypatch, data
):
    def open_run(*_):
        raise UserError('the data were read')

    monkeypatch.setattr(train_ad, 'open_run', open_run)
    folder = empty_folder()
    write_csv(data, folder)
    break_file(data, folder / 'fashion-mnist_train.csv')
    before = names(folder)
    status, out, err = command(train_ad, '--data-path', folder, '--run-dir', folder / 'run')
    assert refused_in_one_line(status, err) and not out and names(folder) == before


# ------------------------------------------------------------------------------------------- idx files


def write_idx(data, folder, arrays):
    gzipped = data.draw(st.booleans(), 'gzipped')
    for name, array in zip(IDX, arrays):
        content = struct.pack(f'>4B{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        content = gzip.compress(content, mtime=0) if gzipped else content
        (folder / (name + '.gz' * gzipped)).write_bytes(content)


def plain_idx(path):
    """The array in an idx file. ValueError, or an error of gzip: there is none."""
    content = path.read_bytes()
    content = gzip.decompress(content) if content.startswith(b'\x1f\x8b') else content
    zero, kind, dims = struct.unpack('>HBB', content[:4])
    if (zero, kind) != (0, 8):
        raise ValueError
    shape = struct.unpack(f'>{dims}I', content[4 : 4 + 4 * dims])
    return np.frombuffer(content[4 + 4 * dims :], np.uint8).reshape(shape)


@given(data=st.data(), arrays=images_and_labels())
def test_idx_files_are_read(empty_folder, data, arrays):
    folder = empty_folder()
    write_idx(data, folder, arrays)
    assert_equal(read(folder), arrays)


@given(data=st.data(), arrays=images_and_labels())
def test_a_broken_idx_file(empty_folder, break_file, data, arrays):
    folder = empty_folder()
    write_idx(data, folder, arrays)
    break_file(data, data.draw(st.sampled_from(sorted(folder.iterdir()))))
    arrays = read(folder)
    if arrays:
        assert_equal(arrays, [plain_idx(next(folder.glob(f'{name}*'))) for name in IDX])


@given(data=st.data(), arrays=images_and_labels())
def test_idx_files_that_do_not_belong_together(empty_folder, data, arrays):
    """Two files change places, or one has another array."""
    folder = empty_folder()
    i, j = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)), 'which')
    if i != j:
        arrays[i], arrays[j] = arrays[j], arrays[i]
    else:
        shape = data.draw(st.lists(st.integers(0, 4), max_size=4), 'shape')
        arrays[i] = np.full(shape, data.draw(st.integers(0, 255)), np.uint8)
    write_idx(data, folder, arrays)
    X, y, X_test, y_test = arrays
    right = [array.ndim for array in arrays] == [3, 1, 3, 1] and X.shape[1:] == X_test.shape[1:]
    right = right and all(len(a) == len(b) and a.size and b.max() <= 9 for a, b in ((X, y), (X_test, y_test)))
    found = read(folder)
    assert (found is not None) == right
    if right:
        assert_equal(found, arrays)


# ---------------------------------------------------------------------------------- files of NumPy's


def halves(array):
    """What load_images makes of an array of images: training and test images, and labels 0."""
    images = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    images = images[:, 0] if images.ndim == 4 and images.shape[1] == 1 else images
    n = len(array) // 2
    return [images[:n], np.zeros(n), images[len(array) - n :], np.zeros(n)]


@given(
    dtype=st.sampled_from(3 * ['u1'] + ['i1', 'bool', '>u2', 'f4', 'c8', 'O', 'S3', 'U3', 'M8[s]', 'u1,f4']),
    shape=st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    dims=st.sampled_from([3, 3, 4, 4, 0, 1, 2]),
    order=st.sampled_from('CF'),
)
def test_any_array_in_a_file(empty_folder, dtype, shape, dims, order):
    path = empty_folder() / 'images.npy'
    array = np.asarray(np.random.default_rng(0).integers(0, 256, shape[:dims]).astype(dtype), order=order)
    np.save(path, array)
    image_axes = dims == 3 or dims == 4 and shape[3] in (1, 3)
    right = dtype in ('u1', 'f4') and image_axes and array.size and shape[0] > 1
    arrays = read(path)
    assert (arrays is not None) == bool(right)
    if right:
        assert_equal(arrays, halves(array))


@given(data=st.data(), arrays=images_and_labels())
def test_a_broken_npy_file(empty_folder, break_file, data, arrays):
    path = empty_folder() / 'images.npy'
    np.save(path, np.concatenate([arrays[0], arrays[2]]))
    break_file(data, path)
    arrays = read(path)
    if arrays:
        assert_equal(arrays, halves(np.load(path)))


NPZ = {  # what the members of an .npz file of four images 3 x 2 may be: sound, and others
    'images': [np.zeros((4, 3, 2), kind) for kind in ('u1', 'u1', 'f4', 'f8', 'i8', 'bool', 'O', 'U1')]
    + [np.full((4, 3, 2), value, 'f4') for value in (np.nan, np.inf, -1, 255, 256)]
    + [np.zeros(shape, 'u1') for shape in ((4, 3, 2, 3), (4, 3, 2, 2), (0, 3, 2), (4, 6), ())],
    'observed': [np.ones((4, 3, 2), kind) for kind in ('bool', 'bool', 'u1', 'f4', 'O')]
    + [np.zeros((4, 3, 2), 'bool'), np.ones((4, 3, 2, 3), 'bool'), np.ones((4, 3), 'bool'), np.True_],
    'labels': [np.arange(4).astype(kind) for kind in ('i8', 'u1', 'u8', 'f4', 'U1', 'O')]
    + [np.array([0, 1, -1, 3]), np.full(4, 10**12), np.arange(5), np.zeros((4, 1), int), np.array(1)],
}


@given(data=st.data())
def test_any_arrays_in_an_npz_file(empty_folder, data):
    path = empty_folder() / 'images.npz'
    names = sorted(data.draw(st.sets(st.sampled_from([*NPZ]))))
    members = {name: data.draw(st.sampled_from(NPZ[name]), name) for name in names}
    np.savez(path, **members)
    arrays = read(path)
    if arrays:
        images, labels = members['images'], members.get('labels', np.zeros(4))
        observed = members.get('observed', ~np.isnan(images))
        observed = observed[..., None] if observed.ndim < images.ndim else observed
        X, _, X_test, _ = halves(np.where(observed, images, 0))
        assert_equal(arrays, [X, labels[:2], X_test, labels[2:]])


@given(data=st.data(), arrays=images_and_labels())
def test_a_broken_npz_file(empty_folder, break_file, data, arrays):
    path = empty_folder() / 'images.npz'
    images = np.concatenate([arrays[0], arrays[2]])
    np.savez_compressed(path, images=images, observed=images < 128)
    break_file(data, path)
    found = read(path)
    if found:  # checksums see to the images and the mask; a mask of another name is none
        masked = (found[0] < 128).all() and (found[2] < 128).all()
        assert_equal(found, halves(np.where(images < 128, images, 0) if masked else images))
