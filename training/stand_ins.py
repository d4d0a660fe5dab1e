"""--help without PyTorch: it would take seconds to import, and the flags do not use it.

The flags are the fields of a dataclass, beside code that does use it: `class Decoder(nn.Module)`, say. So the
modules of the libraries are stood in for by objects that accept whatever an import does with them. Only the
standard library here.
"""

import importlib.abc
import importlib.machinery
import sys

LIBRARIES = {'torch', 'torchvision', 'torchmetrics', 'sklearn', 'scipy', 'matplotlib', 'PIL', 'optuna'}


class StandIn:
    """A module, class, function or value of a library. Each attribute, call and result is again one."""

    __path__ = []  # of a module that has modules in it

    def __getattr__(self, name: str) -> 'StandIn':
        if name[:2] == '__':  # what Python asks for, to see what it has
            raise AttributeError(name)
        return StandIn()

    def __call__(self, *args, **kwargs) -> 'StandIn':
        return StandIn()

    def __mro_entries__(self, bases: tuple) -> tuple:  # class Decoder(StandIn()) has no base class
        return ()

    def __iter__(self):
        return iter(())

    def __or__(self, other) -> 'StandIn':  # Tensor | None
        return self

    __ror__ = __getitem__ = __or__


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """What Python asks for a module first."""

    def find_spec(self, name: str, path=None, target=None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name.partition('.')[0] in LIBRARIES else None

    def create_module(self, spec) -> StandIn:
        return StandIn()

    def exec_module(self, module: StandIn):
        pass


def install():
    """From now on the libraries are stood in for."""
    sys.meta_path.insert(0, Finder())
    sys.modules['triton'] = None  # the project does without it where it is not installed
