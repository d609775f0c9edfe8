"""Import what nnU-Net imports but rarely uses only when it is used.

nnU-Net's modules load libraries for drawing, tables and compiling. They take longer to
load than torch and need 170 MB. A prediction uses none of them, a training on a CPU
only those for drawing.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

RARELY_USED = (
    "httpx",
    "matplotlib.pyplot",
    "pandas",
    "seaborn",
    "skimage.morphology",
    "skimage.morphology.binary",
    "sklearn.model_selection",
)
"""Modules of which those that nnU-Net imports use functions only."""

_COMPILER = "torch._dynamo"


@contextmanager
def postponed(names: Sequence[str] = RARELY_USED) -> Iterator[None]:
    """Let modules that are imported in the block not load those of these names.

    What they take from them, they take when they use it. Others that import such a
    module after the block load it.
    """
    new = [_Postponed(name) for name in names if name not in sys.modules]
    sys.modules.update({module.__name__: module for module in new})
    try:
        yield
    finally:
        for module in new:
            module.remove()


def nothing_is_compiled() -> None:
    """Do without torch's compiler, of which trainings import two functions.

    Whatever else is asked of it, or imported from it, loads it.
    """
    if _COMPILER not in sys.modules:
        sys.modules[_COMPILER] = compiler = _NoCompiler(_COMPILER)
        sys.meta_path.insert(0, _ModulesOfCompiler(compiler))


class _Postponed(ModuleType):
    """In place of a module that is loaded when a function of it is called."""

    __path__ = []  # noqa: RUF012 - a package, perhaps; nobody adds to it

    def __init__(self, name: str) -> None:
        super().__init__(name)
        # To find the spec of another would load its package.
        self.__spec__ = ModuleSpec(name, None) if "." in name else find_spec(name)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        if name.startswith("__"):  # `inspect` looks at all modules
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            return self._function(name)
        return getattr(import_module(self.__name__), name)

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as the original
            self.remove()
            function = getattr(import_module(self.__name__), name)
            return function(*arguments, **options)

        return call

    def remove(self) -> None:
        """Make room for the module."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


class _NoCompiler(_Postponed):
    """In place of torch's compiler."""

    OptimizedModule = type("OptimizedModule", (), {})  # no network is one

    def disable(
        self, function: Callable[..., Any], *_: object, **_options: object
    ) -> Callable[..., Any]:
        """Return a function that is not to be compiled."""
        return function

    def graph_break(self) -> None:
        """Separate parts that are compiled."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        if not name.startswith("__"):
            self.remove()
        return super().__getattr__(name)


class _ModulesOfCompiler(Loader):
    """Finds the modules of torch's compiler, which belong to the real package."""

    def __init__(self, compiler: _NoCompiler) -> None:
        self._compiler = compiler
        self._loaded: dict[str, ModuleType] = {}
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """Load the package, and with it the module, which is not loaded once more."""
        if sys.modules.get(_COMPILER) is not self._compiler or not name.startswith(
            f"{_COMPILER}."
        ):
            return None
        self._compiler.remove()
        import_module(_COMPILER)
        self._loaded[name] = module = import_module(name)
        self._specs[name] = module.__spec__
        del sys.modules[name]  # otherwise Python's import takes the spec of the module
        return spec_from_loader(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self._loaded[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""
        with suppress(AttributeError):  # one with settings takes no attributes
            module.__spec__ = self._specs[module.__name__]
