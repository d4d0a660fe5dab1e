"""Data sets and loaders, the course's picture helpers, and what every command needs: run folders and errors."""

import contextlib
import ctypes
import io
import json
import os
import shutil
import socket
import sys
import warnings
import zlib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torchvision import transforms


class Imagenette(torchvision.datasets.Imagenette):
    """torchvision's data set as its MNIST is called; images of 64 x 64 from the middle, in an order that mixes the classes."""

    def __init__(self, root, train, download):
        crop = transforms.Compose(
            [transforms.Resize(64), transforms.CenterCrop(64), transforms.PILToTensor()]
        )
        super().__init__(root, 'train' if train else 'val', '160px', download=download, transform=crop)

    def images(self, n):
        """n images and labels: X [n, 3, 64, 64], y [n]."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n].tolist()
        images, labels = zip(*(self[i] for i in order))
        return torch.stack(images).numpy(), np.array(labels)


DIGIT_NAMES = [str(digit) for digit in range(10)]
# name -> (torchvision class, class names). digits come from scikit-learn, npy from a file that --data-path names.
DATASETS = {
    'fashion-mnist': (
        torchvision.datasets.FashionMNIST,
        [
            'T-shirt',
            'trouser',
            'pullover',
            'dress',
            'coat',
            'sandal',
            'shirt',
            'sneaker',
            'bag',
            'ankle boot',
        ],
    ),
    'mnist': (torchvision.datasets.MNIST, DIGIT_NAMES),
    'imagenette': (
        Imagenette,
        [
            'tench',
            'springer',
            'cassette player',
            'chain saw',
            'church',
            'French horn',
            'garbage truck',
            'gas pump',
            'golf ball',
            'parachute',
        ],
    ),
    'digits': (None, DIGIT_NAMES),
    'npy': (None, ['unlabelled']),  # any images, in a file of NumPy's
}
DEFAULT_DATASET = 'fashion-mnist'
DEFAULT_IMAGES = 1000  # as in the course: the first 1,000 of each set


class UserError(Exception):
    """Something that the user can mend. Its message is one line: what was expected, what came, what to do."""


def run_command(main):
    """Run a script's main(); an error that the user can mend is one line on standard error and exit status 2."""
    keep_freed_memory()
    try:
        main()
    except (UserError, OSError) as error:  # OSError: no permission, disk full; its message names the file
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if 'memory' not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        print(
            'error: not enough memory; use a smaller --batch-size, --latent-dim or --n-train', file=sys.stderr
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print('\ninterrupted', file=sys.stderr)
        sys.exit(130)


def keep_freed_memory():
    """Let the C library keep freed memory of up to 2 GB for the next use, where it is glibc.

    It would give large tensors back to the system after every step, and the next step would wait for fresh pages, 4 KB at a
    time, each filled with zeros: with the documents' decoders a quarter of a step and more.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: no large block by a system call of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD, bytes


# ---------------------------------------------------------------------------------------------- data


class ImageDataset(torch.utils.data.Dataset):
    """Images X [N, 28, 28] (in colour [N, 3, H, W]), float32 in 0-255, and labels y [N], int64. Item i is (i, X[i]).

    mapped: X is a uint8 tensor in a file, of which only what is used comes into memory; it stays one.
    """

    def __init__(self, X, y, name, mapped=False):
        self.X = X if mapped else torch.as_tensor(X, dtype=torch.float32)
        self.y = torch.as_tensor(y, dtype=torch.int64)
        self.name, self.mapped = name, mapped
        self.classes = DATASETS[name][1]

    @property
    def labelled(self):
        return len(self.classes) > 1

    def part(self, which):
        """The images in a slice, as a data set."""
        return ImageDataset(self.X[which], self.y[which], self.name, self.mapped)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return i, self.X[i].float()

    def checksum(self):
        """CRC-32 of the images: tells whether two data sets are the same."""
        crc = 0
        for part in self.X.split(10_000):
            crc = zlib.crc32(part.to(torch.uint8).contiguous().numpy(), crc)
        return crc


def take(n, available, what):
    """How many of `available` images to use for a wish n: None (the course's 1,000), 'all', or a number."""
    if n is None:
        return min(DEFAULT_IMAGES, available)
    if n == 'all':
        return available
    if n > available:
        raise UserError(
            f'expected at most {available} images, all that {what} has, got {n}; ask for fewer, or for "all"'
        )
    return n


def read_csv(path, n):
    """The first n rows (None: 1,000; 'all') of one of the course's CSV files: X [n, 28, 28], y [n]."""
    if not path.exists():
        raise UserError(
            f'expected the file {path} beside its other half, got no such file; add it, or remove the '
            f'other to use another source'
        )
    with open(path, encoding='utf-8', errors='replace') as file:
        columns = file.readline().strip().split(',')
    if len(columns) != 785 or columns[0].strip('"') != 'label':
        raise UserError(
            f'expected the header of {path} to be label,pixel1,...,pixel784 (785 columns), got '
            f'{len(columns)} columns starting with {columns[0][:20]!r}; is this the right file?'
        )
    limit = {'all': None, None: DEFAULT_IMAGES}.get(n, n)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # an empty file is answered below
            table = np.loadtxt(path, dtype=np.int32, delimiter=',', skiprows=1, max_rows=limit, ndmin=2)
    except ValueError as error:
        reason = str(error).split(';')[0]
        raise UserError(
            f'expected 785 whole numbers in every row of {path}, got: {reason}; the file is malformed or '
            f'truncated, fetch it again'
        ) from None
    if not len(table):
        raise UserError(f'expected images in {path}, got a header and nothing below it; fetch the file again')
    y, X = table[:, 0], table[:, 1:]
    if X.min() < 0 or X.max() > 255:
        row = int(np.argwhere((X < 0) | (X > 255))[0, 0])
        raise UserError(
            f'expected pixels in 0-255 in {path}, got {X.min()} to {X.max()} (first in row {row + 1}); '
            f'scale them, or fetch the file again'
        )
    if y.min() < 0 or y.max() > 9:
        raise UserError(f'expected labels in 0-9 in {path}, got {y.min()} to {y.max()}; fetch the file again')
    return X.reshape(-1, 28, 28), y


def read_npy(path, n_train, n_test):
    """Images in a file of NumPy's, uint8 [N, H, W] or [N, H, W, C] with C 1 or 3, mapped: training and test ImageDataset.

    n_train, n_test: None: 1,000, or half of the images if they are fewer than 2,000; 'all': what the other leaves. Training
    images are the file's first, test images its last. UserError: not such a file, or fewer images.
    """
    try:
        array = np.lib.format.open_memmap(
            path, 'c'
        )  # c: PyTorch wants writable memory; what is written would stay in memory
    except FileNotFoundError:
        raise UserError(
            f'expected images in {path}, got no such file; name the folder or the .npy file with --data-path'
        ) from None
    except ValueError as error:
        raise UserError(
            f'cannot read {path} as an array: {str(error).splitlines()[0]}; write it with numpy.save'
        ) from None
    if (
        array.dtype != np.uint8
        or not (array.ndim == 3 or array.ndim == 4 and array.shape[3] in (1, 3))
        or 0 in array.shape[1:]
    ):
        raise UserError(
            f'expected uint8 images [N, H, W], [N, H, W, 1] or [N, H, W, 3] in {path}, got {array.dtype} '
            f'{list(array.shape)}; convert them with numpy'
        )
    if len(array) < 2:
        raise UserError(
            f'expected two images or more in {path}, one to train on and one to test with, got {len(array)}'
        )
    if n_train == n_test == 'all':
        raise UserError(
            f'expected a number of training or of test images, got "all" for both, which would share the images of '
            f'{path}; give --n-test a number'
        )
    half = min(DEFAULT_IMAGES, len(array) // 2)
    n_train, n_test = (half if n is None else n for n in (n_train, n_test))
    n_train = len(array) - n_test if n_train == 'all' else n_train
    n_test = len(array) - n_train if n_test == 'all' else n_test
    if min(n_train, n_test) < 1 or n_train + n_test > len(array):
        raise UserError(
            f'expected at most {len(array)} images for training and test together, all that {path} has, and one of '
            f'each at least, got {n_train} and {n_test}; ask for fewer'
        )
    X = torch.from_numpy(array)
    X = X.movedim(3, 1) if X.dim() == 4 else X  # [N, C, H, W]: a view
    X = X.squeeze(1) if X.dim() == 4 and X.shape[1] == 1 else X
    whole = ImageDataset(X, torch.zeros(len(X), dtype=torch.int64), 'npy', mapped=True)
    return whole.part(slice(n_train)), whole.part(slice(len(X) - n_test, None))


class Unavailable(Exception):
    """A data set is not on disk and cannot be downloaded; the message says why."""


def read_torchvision(name, root, train, n):
    """The first n images (None: 1,000; 'all') of torchvision's set under root, downloaded if need be:
    X [n, 28, 28] or [n, 3, 64, 64], y [n].

    Unavailable: neither on disk nor to be had. UserError: on disk, but broken, or fewer than n.
    """
    dataset_class = DATASETS[name][0]
    try:
        try:
            dataset = dataset_class(root, train=train, download=False)
        except Exception as error:
            if 'not found' not in str(error):
                raise
            dataset = download(dataset_class, root, train)
        n = take(n, len(dataset), f'{name} ({"train" if train else "test"})')
        if isinstance(dataset, Imagenette):
            return dataset.images(n)
        return dataset.data[:n].numpy(), dataset.targets[:n].numpy()
    except (Unavailable, UserError):
        raise
    except Exception as error:  # parsing a broken file can fail in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f'cannot read {name} under {root}: {reason}; the files are truncated or malformed, delete them '
            f'to fetch them again'
        ) from None


def download(dataset_class, root, train):
    """torchvision's data set, downloaded into root; its progress is shown on a terminal only. Unavailable: it failed."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds; a silent network must not hold the program for ever
    quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
    try:
        with quiet:
            return dataset_class(root, train=train, download=True)
    except Exception as error:  # and so can a download
        raise Unavailable(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
    finally:
        socket.setdefaulttimeout(timeout)


def read_digits():
    """scikit-learn's 1,797 digits, 8 x 8 in 0-16, resized to 28 x 28 in 0-255: training and test (X, y)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    X = torch.as_tensor(digits.images, dtype=torch.float32)[:, None] * (255 / 16)
    X = F.interpolate(X, size=(28, 28), mode='bilinear', align_corners=False)[:, 0].round()
    return (X[:1000], digits.target[:1000]), (X[1000:], digits.target[1000:])


def load_data(data_path, dataset=None, n_train=None, n_test=None):
    """Training and test ImageDataset, and a text that says where they come from.

    data_path: a folder, or a .npy file of images (see read_npy).
    dataset: a name in DATASETS, never replaced; None: fashion-mnist, or digits if that cannot be had.
    n_train, n_test: how many images; None: 1,000 or what there is; 'all'.
    UserError: no such data, or broken data.
    """
    root = Path(data_path)
    if root.suffix == '.npy' or dataset == 'npy':
        if root.suffix != '.npy' or dataset not in (None, 'npy'):
            raise UserError(
                f'expected --dataset npy with a .npy file as --data-path, got {dataset} with {root}; leave one of them '
                f'out'
            )
        return *read_npy(root, n_train, n_test), str(root)
    name = dataset or DEFAULT_DATASET
    files = [root / f'{name}_{part}.csv' for part in ('train', 'test')]
    if name == 'digits':
        (train, test), source = read_digits(), 'scikit-learn digits'
    elif any(file.exists() for file in files):
        train, test = read_csv(files[0], n_train), read_csv(files[1], n_test)
        source = str(root)
    else:
        source = str(root)
        try:
            train = read_torchvision(name, root, True, n_train)
            test = read_torchvision(name, root, False, n_test)
        except Unavailable as error:
            if dataset:
                raise UserError(
                    f"expected {name} in {root} as {files[0].name} and {files[1].name} or as torchvision's files, "
                    f'got neither, and downloading it failed ({error}); name the folder with --data-path'
                ) from None
            print(
                f"warning: no {name} in {root}, and downloading it failed ({error}): using scikit-learn's bundled digits "
                f'instead; name a folder that has it with --data-path',
                file=sys.stderr,
            )
            name, (train, test), source = 'digits', read_digits(), 'scikit-learn digits (fallback)'
    n_train, n_test = (
        take(n_train, len(train[0]), f'{name} (train)'),
        take(n_test, len(test[0]), f'{name} (test)'),
    )
    return (
        ImageDataset(train[0][:n_train], train[1][:n_train], name),
        ImageDataset(test[0][:n_test], test[1][:n_test], name),
        source,
    )


def create_dataloaders(data_path='dataset', **dl_args):
    """The course's loaders: train_ds, train_dl, test_ds, test_dl; dl_args go to torch's DataLoader.

    The first 1,000 images of Fashion-MNIST's two sets, from wherever `load_data` finds them.
    """
    train_ds, test_ds, _ = load_data(data_path)
    return (
        train_ds,
        torch.utils.data.DataLoader(train_ds, **dl_args),
        test_ds,
        torch.utils.data.DataLoader(test_ds, **dl_args),
    )


# --------------------------------------------------------------------------- the course's picture helpers

TSNE_POINTS = 2000  # that a map shows: more hide each other, and take minutes


def tsne(points):
    """Places in the plane [N, 2] by t-SNE (van der Maaten and Hinton, 2008) for points [N, D]; of equal points, the origin."""
    from sklearn.manifold import TSNE

    if not np.ptp(points, 0).any():  # scikit-learn crashes
        return np.zeros((len(points), 2))
    return TSNE(
        2,
        perplexity=min(30, (len(points) - 1) / 3),
        init='pca' if points.shape[1] > 1 else 'random',
        random_state=0,
    ).fit_transform(points)


def scatter_classes(ax, dataset, flat):
    """Draw places [N, 2] of the first N images of dataset, coloured and labelled by class."""
    labels = torch.as_tensor(dataset.y)[: len(flat)].cpu().numpy()
    for label in np.unique(labels):
        name = dataset.classes[label] if hasattr(dataset, 'classes') else str(label)
        ax.scatter(*flat[labels == label].T, s=12, color=plt.cm.tab10(label % 10), label=name)


def plot_tsne(dataset, latents, file_name, plot_title='t-SNE of the latents'):
    """Write a t-SNE map of latents [N, D], of the first TSNE_POINTS of them, coloured by the classes of dataset."""
    fig, ax = plt.subplots(figsize=(8, 7))
    scatter_classes(
        ax, dataset, tsne(torch.as_tensor(latents).detach().cpu().flatten(1).numpy()[:TSNE_POINTS])
    )
    ax.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    ax.set(title=plot_title, xticks=[], yticks=[])
    fig.savefig(file_name, dpi=100, bbox_inches='tight')
    plt.close(fig)


def tensors_as_images(tensors, nrows=1, figsize=(8, 8), titles=[], wspace=0.1, hspace=0.2, cmap=None):
    """Show a sequence of images [28, 28] (or [3, H, W]) on a grid of nrows rows; returns fig, axes."""
    ncols = -(-len(tensors) // nrows)
    fig, axes = plt.subplots(
        nrows, ncols, figsize=figsize, squeeze=False, gridspec_kw=dict(wspace=wspace, hspace=hspace)
    )
    for i, ax in enumerate(axes.flat):
        ax.axis('off')
        if i < len(tensors):
            image = torch.as_tensor(tensors[i]).detach().cpu().squeeze().numpy()
            ax.imshow(image.transpose(1, 2, 0) if image.ndim == 3 else image, cmap=cmap)
        if i < len(titles):
            ax.set_title(titles[i])
    return fig, axes


def image_grid(images, per_row=8, padding=1):
    """One picture [3, height, width] in 0-1 of images [N, H, W] or [N, C, H, W] in 0-255."""
    images = torch.as_tensor(images).detach().cpu().float().clamp(0, 255) / 255
    images = images[:, None] if images.dim() == 3 else images
    return torchvision.utils.make_grid(images, nrow=per_row, padding=padding, pad_value=1)


def save_images(images, file_name):
    """Write images [N, H, W] or [N, C, H, W] with values in 0-255 as one grid."""
    torchvision.utils.save_image(image_grid(images), file_name)


# ------------------------------------------------------------------------------------------- run folders


def write_atomically(path, write):
    """write(temporary path), then rename: whoever reads `path` sees the old file or the new one, whole."""
    temporary = Path(path).with_name(Path(path).name + '.tmp')
    write(temporary)
    os.replace(temporary, path)


def write_json(path, value):
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(value, indent=2) + '\n'))


def read_json(path):
    """The object in a JSON file. UserError: it cannot be read as one."""
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        value = error
    if not isinstance(value, dict):
        raise UserError(f'expected a JSON object in {path}, got {str(value)[:100]}; train the run again')
    return value


def save_array(path, array):
    with open(path, 'wb') as file:  # an open file: given a name, numpy would add .npy to it
        np.save(file, array)


def save_checkpoint(path, state):
    """UserError: the disk is full, or another reason that the file cannot be written."""
    try:
        write_atomically(path, lambda temporary: torch.save(state, temporary))
    except RuntimeError as error:  # torch's answer to a full disk
        raise UserError(
            f'cannot write {path}: {str(error).splitlines()[0]}; make room and go on with --resume'
        ) from None


def load_checkpoint(path, device='cpu'):
    """The state in a checkpoint. UserError: not a whole checkpoint."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not one of its own
        state = type(error).__name__
    if not isinstance(state, dict) or not isinstance(state.get('config'), dict):
        reason = state if isinstance(state, str) else 'other contents'
        raise UserError(
            f'expected a checkpoint in {path}, got a file that cannot be read as one ({reason}); delete its '
            f'folder and train again'
        )
    return state


def is_whole(folder):
    """A finished run: results.json is written last."""
    return (Path(folder) / 'results.json').exists()


def replace_folder(new, old):
    """Put the folder `new` in the place of `old`."""
    aside = old.with_name(old.name + '.replaced')
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside, ignore_errors=True)


def settle(run_dir):
    """The folder in which a successor of run_dir grows, <run_dir>.new; one that was killed just before it took its
    place takes it now."""
    new = run_dir.with_name(run_dir.name + '.new')
    if is_whole(new):
        replace_folder(new, run_dir)
    return new


def pick_device(name):
    """torch.device for --device; None: CUDA if there is one. Of several processes each has a GPU of its own. UserError: no
    such device here."""
    if name is None:
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    if name == 'cuda' and 'LOCAL_RANK' in os.environ:  # torchrun's number of the process on this machine
        name = f'cuda:{os.environ["LOCAL_RANK"]}'
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise UserError(f'expected --device to be cpu, cuda or cuda:N, got {name!r}')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"expected --device to be one of this machine's {torch.cuda.device_count()} CUDA devices or cpu, "
            f'got {name!r}'
        )
    return device
