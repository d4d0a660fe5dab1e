from pathlib import Path

import pytest
import torch

from training.errors import UserError
from training.schema import TensorOf, check

FILE = Path('run') / 'checkpoint.pt'
ANY = TensorOf(torch.float32, (None, 3))


@pytest.mark.parametrize(
    'value, expected',
    [
        ({'a': 1, 'b': {'c': 'x'}}, {'a': int, 'b': {'c': str}}),
        (torch.zeros(2, 3), torch.ones(2, 3)),
        (torch.zeros(2, 3), torch.ones(2, 3, device='meta')),
        (torch.zeros(7, 3), ANY),
        (torch.zeros(0, 3), ANY),
        (torch.tensor([0, 9]), TensorOf(torch.int64, (2,), below=10)),
        (torch.tensor([], dtype=torch.int64), TensorOf(torch.int64, (0,), below=10)),
        (5, range(6)),
        (1.5, float),
    ],
)
def test_what_is_as_expected(value, expected):
    check(value, expected, FILE)


@pytest.mark.parametrize(
    'value, expected, message',
    [
        ({'a': 1}, {'a': int, 'b': int}, 'expected an entry b in run/checkpoint.pt, got none; put back'),
        ({'a': 1, 3: 1}, {'a': int}, 'expected no entry 3 in run/checkpoint.pt, got one'),
        ({'a': {}}, {'a': {'b': int}}, 'expected an entry a.b in'),
        ({'a': 1}, {'a': {'b': int}}, 'expected dict as a in run/checkpoint.pt, got 1'),
        ([1], {'a': int}, r'expected dict as its contents in run/checkpoint.pt, got \[1\]'),
        ({'a': '1'}, {'a': int}, "expected int as a in run/checkpoint.pt, got '1'"),
        ({'a': 1}, {'a': float}, 'expected float as a in'),
        ({'a': 6}, {'a': range(6)}, 'expected a whole number from 0 to 5 as a in .*, got 6'),
        ({'a': True}, {'a': range(6)}, 'expected a whole number from 0 to 5 as a in .*, got True'),
        ({'a': 2.0}, {'a': range(6)}, 'got 2.0'),
        (
            {'a': torch.zeros(2, 2)},
            {'a': int},
            r'expected int as a in .*, got tensor\(\[\[0., 0.\], \[0., 0.\]\]\);',
        ),
        ({'a\nb': 1}, {}, 'expected no entry a b in'),
        ({'a': 'x'}, {'a': ANY}, r'expected float32 \[any, 3\] as a in .*, got a str'),
        ({'a': torch.zeros(2, 4)}, {'a': ANY}, r'got float32 \[2, 4\]'),
        ({'a': torch.zeros(3)}, {'a': ANY}, r'got float32 \[3\]'),
        ({'a': torch.zeros(2, 3).double()}, {'a': ANY}, r'got float64 \[2, 3\]'),
        ({'a': torch.zeros(2, 3).to_sparse()}, {'a': ANY}, 'got a Tensor'),
        ({'a': torch.zeros(2, 3, device='meta')}, {'a': ANY}, 'got a Tensor'),
        ({'a': torch.nn.Parameter(torch.zeros(2, 3))}, {'a': ANY}, 'got a Parameter'),
        ({'a': torch.full((2, 3), torch.nan)}, {'a': ANY}, 'got 6 numbers in it that are not finite'),
        (
            {'a': torch.tensor([0, 10])},
            {'a': TensorOf(torch.int64, (2,), below=10)},
            r'expected int64 \[2\] with values from 0 to 9 as a in .*, got values from 0 to 10',
        ),
        ({'a': torch.tensor([-1])}, {'a': TensorOf(torch.int64, (1,), below=10)}, 'got values from -1 to -1'),
    ],
)
def test_what_is_not_is_one_line_that_names_it(value, expected, message):
    with pytest.raises(UserError, match=message) as error:
        check(value, expected, FILE)
    assert '\n' not in str(error.value)
