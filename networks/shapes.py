"""The shapes of images."""

SHAPE = (28, 28)  # of the images of Fashion-MNIST and MNIST


def channels_first(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(C, H, W) of images of that shape."""
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def expect_shape(shape: tuple[int, ...], expected: tuple[int, ...], decoder: str):
    """ValueError: images of that shape are not what the decoder of that name makes."""
    if tuple(shape) != expected:
        got = f'got {tuple(shape)}; use --decoder groupnorm or mlp'
        raise ValueError(f'expected images of shape {expected} for decoder {decoder}, {got}')
